"""What the recipes of few-step models share: the teacher of another run, and the network that begins as it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from torch import nn

from ..data.images import ImageFormat
from ..diffusion.flow_map import check_differentiable
from ..diffusion.matching import Matching
from ..diffusion.predictions import Prediction, as_prediction
from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import RectifiedFlow, Schedule
from ..diffusion.times import LogitNormalTimes, TimeSampling, UniformTimes
from ..diffusion.trajectory import TrajectoryObjective
from ..diffusion.trajectory_rules import RULES
from ..errors import UserError
from ..models.dit import DiT
from ..systems.matching import MatchingStudent
from ..systems.prior import PriorSystem
from ..systems.student import StudentDrawing, Teacher, TrajectoryStudent
from ..training import checkpoint
from ..training.bounds import AtLeast, Between
from ..training.checkpoint import Checkpoint
from ..training.settings import settings_from
from ..untrusted import MOST_SAMPLING_STEPS, escaped
from ._diffusion import DAYS, DIT_PRESETS, HOURS, MINUTES, SMALL_IMAGES, DiTSettings, dit
from ._images import ImageSettings
from .budget import require_fit
from .registry import load_recipe, recipe_names

PRESETS: dict[str, dict[str, Any]] = {
    "digits": {**MINUTES, "learning_rate": 1e-3},
    **dict.fromkeys(SMALL_IMAGES, {**HOURS, "learning_rate": 3e-4}),
    "folder": {**DAYS, "learning_rate": 1e-4},
}
Way = tuple[Schedule, str]
STRAIGHT: Way = (RectifiedFlow(), "velocity")
_SIZES = ("patch_size", "width", "depth", "heads", "time_scale")
_NO_TEACHER = "--teacher must be a run of a recipe with a diffusion transformer, and none was given"
_RANGE = "guidance must be one number, or two that are the ends of a range"


@dataclass(frozen=True, kw_only=True)
class StudentSettings(ImageSettings):
    """A few-step model of the classes' images."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("teacher",)

    dataset: str = "digits"
    teacher: str = ""
    """A run of a recipe with a diffusion transformer, on images of the same format; checkpoints keep its weights. The
    run of a few-step model stands for its own teacher."""
    guidance: Annotated[tuple[float, ...], Between(-1000, 1000)] = (1.0,)
    """Weight of guidance that the model learns to have in it, 1 for none; or two, the range of weights that it is
    told."""
    label_drop: Annotated[float, Between(0, 1)] = 0.0
    """Share of the images trained on without their label; above 0 where guidance is learned without a teacher."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 4
    """Steps from noise to image."""
    patch_size: Annotated[int | None, AtLeast(1)] = None
    """Side of the square of pixels that becomes one token; this and the next ones are the teacher's by default."""
    width: Annotated[int | None, AtLeast(4)] = None
    """Features of a token."""
    depth: Annotated[int | None, AtLeast(1)] = None
    """Transformer blocks."""
    heads: Annotated[int | None, AtLeast(1)] = None
    """Attention heads of a block."""
    time_scale: Annotated[float | None, Between(0, 1000, "(]")] = None
    """What the fastest wave of time turns by from image to noise; 1 without a teacher."""

    def __post_init__(self) -> None:
        # As for the data: a run means the same from every working directory.
        if isinstance(self.teacher, str) and self.teacher:
            object.__setattr__(self, "teacher", str(Path(self.teacher).absolute()))
        super().__post_init__()

    @property
    def scales(self) -> tuple[float, float]:
        """The range of guidance."""
        if len(self.guidance) not in (1, 2) or self.guidance[0] > self.guidance[-1]:
            raise ValueError(f"{_RANGE}, got {' '.join(f'{value:g}' for value in self.guidance)}")
        return self.guidance[0], self.guidance[-1]


@dataclass(frozen=True, kw_only=True)
class TrajectorySettings(StudentSettings):
    """A few-step model that follows trajectories."""

    boundary: Annotated[float, Between(0, 1)] = 0.5
    """Share of the samples that learn the path's own velocity, rather than a step."""

    @property
    def times(self) -> TimeSampling:
        """At which the student learns."""
        return UniformTimes()


@dataclass(frozen=True, kw_only=True)
class TimedSettings(TrajectorySettings):
    """A few-step model that follows trajectories between any two times."""

    mean: Annotated[float, Between(-5, 5)] = 0.0
    """Mean of logit t in training; above 0, more noise than image."""
    std: Annotated[float, Between(1e-2, 10)] = 1.0
    """Standard deviation of logit t in training."""

    @property
    def times(self) -> TimeSampling:
        return LogitNormalTimes(self.mean, self.std)


class Base(NamedTuple):
    """What a student begins with; `origin` says how to build its teacher again."""

    model: DiT
    schedule: Schedule
    prediction: Prediction
    teacher: Teacher | None
    origin: dict[str, Any] | None


def base(settings: StudentSettings, images: ImageFormat, way: Way = STRAIGHT) -> Base:
    """The student's network, as its teacher's Euler step; or without a teacher, untrained, on the path `way`.

    `UserError` for a teacher of other images, sizes or networks, or one that cannot be read; ValueError for guidance
    that neither teacher nor label drop allows.
    """
    told = {"destination": True, "told_guidance": settings.scales[0] != settings.scales[1]}
    guided = settings.scales != (1.0, 1.0)
    if not settings.teacher:
        if guided and not settings.label_drop:
            raise ValueError("label_drop must be above 0 where guidance is learned without a teacher, got 0")
        preset = DIT_PRESETS.get(settings.dataset, {})
        sizes = {name: preset[name] for name in _SIZES if name in preset}
        given = {name: value for name in _SIZES if (value := getattr(settings, name)) is not None}
        model = dit(DiTSettings(**{"time_scale": 1.0, **sizes, **given}), images, **told)
        return Base(model, way[0], as_prediction(way[1]), None, None)
    prior, teacher_settings, origin = _teacher_prior(settings, images)
    for name in _SIZES:
        there, here = getattr(teacher_settings, name), getattr(settings, name)
        if here is not None and here != there:
            raise UserError(f"--{name.replace('_', '-')} must be that of the teacher, {there}, got {here}")
    if guided and teacher_settings.label_drop == 0:
        raise ValueError("guidance must be 1 for a teacher that was trained without dropped labels")
    objective, network = prior.objective, prior.model
    if isinstance(objective.schedule, nn.Module):
        raise UserError("--teacher must be a run of which the schedule is not learned")
    model = dit(teacher_settings, images, **told)
    model.load_state_dict(network.state_dict(), strict=False)  # all but what a teacher is not told
    teacher = Teacher(network, prior.network, objective.schedule, objective.prediction)
    return Base(model, objective.schedule, objective.prediction, teacher, origin)


def trajectory_student(
    rule: str,
    settings: TrajectorySettings,
    images: ImageFormat,
    *,
    sampler: str = "euler",
    way: Way = STRAIGHT,
    student: dict[str, Any] | None = None,
    **options: Any,
) -> TrajectoryStudent:
    """A student of this rule, with `options` of its objective, and those of the system in `student`."""
    made, objective, drawing = parts_of(rule, settings, images, sampler, way, **options)
    system = TrajectoryStudent(made.model, objective, images.shape, drawing, made.teacher, **(student or {}))
    if made.origin is not None:
        system.remembered = {"teacher": made.origin}
    return system


def parts_of(
    rule: str, settings: TrajectorySettings, images: ImageFormat, sampler: str, way: Way = STRAIGHT, **options: Any
) -> tuple[Base, TrajectoryObjective, StudentDrawing]:
    """What systems of a rule are made of. ValueError where it differentiates what can't be."""
    if RULES[rule].needs_teacher and not settings.teacher:
        raise UserError(_NO_TEACHER)
    made = base(settings, images, way)
    if RULES[rule].tangent is not None:
        check_differentiable(made.model)
        if settings.mixed_precision == "fp16":
            raise ValueError("mixed_precision must be no or bf16 where a loss differentiates time, got fp16")
    objective = TrajectoryObjective(
        rule,
        made.schedule,
        made.prediction,
        settings.times,
        teacher=None if made.teacher is None else made.teacher.model,
        guidance=settings.scales,
        label_drop=settings.label_drop,
        null_label=made.model.null_label,
        boundary=settings.boundary,
        **options,
    )
    return made, objective, StudentDrawing(settings.sampling_steps, sampler, settings.scales)


def _teacher_prior(
    settings: StudentSettings, images: ImageFormat
) -> tuple[DiffusionPrior, DiTSettings, dict[str, Any]]:
    """What the run that the settings name has trained, with its averaged weights."""
    path = Path(settings.teacher)
    try:
        saved = checkpoint.read(path)
    except UserError as error:
        raise UserError(f"--teacher: {error}") from error
    remembered = saved.state.get("remembered")
    origin = remembered.get("teacher") if isinstance(remembered, dict) else None
    weights = saved.module("prior.model") if origin is None else saved.module("teacher")
    if origin is None:
        origin = {"recipe": saved.value("recipe", str), "settings": saved.state["settings"]}
    wanted = "--teacher must be a run of a recipe with a diffusion transformer of pixels"
    if not isinstance(origin, dict) or type(origin.get("settings")) is not dict:
        raise saved.damaged("state.json describes no teacher")
    name = origin.get("recipe")
    recipe = load_recipe(name) if name in recipe_names() else None
    # Of another run's latents, or of another run's network, is what has other runs.
    if recipe is None or not issubclass(recipe.settings, DiTSettings) or recipe.settings.OTHER_RUNS:
        raise UserError(f"{wanted}, but {path} is of {escaped(str(name), 200)}")
    _require_images(saved, images, path)
    own = settings_from(recipe.settings, origin["settings"])
    require_fit(lambda: recipe.system(own, images), weights)
    system = recipe.system(own, images)
    prior = system.prior if isinstance(system, PriorSystem) else None
    if not isinstance(prior, DiffusionPrior) or not isinstance(prior.model, DiT):
        raise UserError(f"{wanted}, but {path} is of {name}")
    try:
        prior.model.load_state_dict(weights)
    except RuntimeError as error:
        raise saved.damaged("it holds another network than its settings say") from error
    return prior.eval(), own, origin


def _require_images(saved: Checkpoint, images: ImageFormat, path: Path) -> None:
    there = saved.images
    if there.shape != images.shape:
        raise UserError(f"--teacher must be of images of shape {images.shape}, but {path} is of {there.shape}")
    if len(there.class_names) != len(images.class_names):
        raise UserError(
            f"--teacher must be of {len(images.class_names)} classes, but {path} is of {len(there.class_names)}"
        )


def drawing_base(settings: StudentSettings, images: ImageFormat) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """The arguments of a `DrawingStudent`, and how to build its teacher again; what `base` raises."""
    if not settings.teacher:
        raise UserError(_NO_TEACHER)
    low, high = settings.scales
    if low != high:
        raise ValueError(
            f"guidance must be one number for a model that is judged by what it draws, got {low:g} {high:g}"
        )
    made = base(settings, images)
    assert made.teacher is not None
    drawing = StudentDrawing(settings.sampling_steps, "consistency", settings.scales)
    return (made.model, images.shape, drawing, made.teacher, low), made.origin


def matching_student(kind: Matching, settings: StudentSettings, images: ImageFormat, every: int) -> MatchingStudent:
    """A student of this kind of matching, with a critic that begins as the teacher."""
    arguments, origin = drawing_base(settings, images)
    teacher: Teacher = arguments[3]
    made = MatchingStudent(copy.deepcopy(teacher.network), *arguments, kind=kind, every=every)
    made.remembered = {"teacher": origin}
    return made

"""`visgen-fast evaluate`: measures what a recipe trained, and compares the images that it draws with others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ..errors import UserError, writing
from ..untrusted import MOST_BEAM, MOST_SAMPLING_STEPS
from .options import device_named, parse
from .outliers import outliers
from .probe import probe
from .sample import MOST_GUIDANCE

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..systems.student import StudentSystem
    from ..training.checkpoint import Checkpoint
    from ..training.settings import TrainingSettings
    from ..training.system import System

_MOST_BINS = 16
# What only some systems are measured by: options, and what trains such a one.
_OF_SOME = {"beam": "tokenizer", "bins": "diffusion model", "transfer_steps": "diffusion model"}
_OF_OUTLIERS = ("beam", "bins", "transfer_steps", "against", "steps", "guidance", "by_class", "teacher", "probe")
_OF_PROBE = ("beam", "features", "bins", "transfer_steps", "against", "steps", "guidance", "by_class", "teacher")
# What is asked of images that are drawn.
_OF_DRAWN = ("against", "steps", "guidance", "by_class")


def evaluate(arguments: list[str]) -> int:
    measure(parse(EvaluateOptions, arguments, "visgen-fast evaluate"))
    return 0


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained model on images that were held out; writes evaluation.json, and figures.

    A tokenizer: reconstruction, codes, and which of them add nothing. A diffusion model: errors by noise level λ, and
    whether the levels are in each other's way. A model of codes: bits, by place, by depth and by step. A normalizing
    flow: bits per dimension. A few-step model: its distance to its teacher's long run. With --features, what any model
    draws is compared with other images.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Folder of a run, whose newest checkpoint is taken, or of one checkpoint, or a file of visgen-fast export."""
    features: str | None = None
    """The network whose features are compared: a run of the recipe classifier on images of the same kind, or of a
    tokenizer that was given one; efficientnet-lite0, of ImageNet; or module:function, your own, which is run. Gives the
    rFID of a tokenizer, and FID, KID, precision and recall of images that are drawn from fixed seeds."""
    against: str | None = None
    """What drawn images are compared with: held-out, train, which looks for copies too, another run, which draws from
    the same noise, or a folder of images; by default held-out images where there are some."""
    steps: tuple[int, ...] | None = None
    """Steps of the sampler; by default the recipe's. With --teacher, the numbers to compare at, by default 1 2 4 8."""
    guidance: float | None = None
    """Scale of classifier-free guidance, 1 for none; by default the recipe's."""
    by_class: bool = False
    """Compare the images of each class, too."""
    teacher: Path | None = None
    """Few-step models: the run of the diffusion model to compare with, by the same seeds."""
    beam: int | None = None
    """Tokenizers: prefixes that the beam search for codes keeps; 1 takes the nearest code; by default the recipe's."""
    bins: int | None = None
    """Diffusion models: intervals of λ whose gradients are compared, at most 16; by default 8."""
    transfer_steps: int | None = None
    """Diffusion models: steps of tuning on each interval alone, to see what it does to the others; by default 0, which
    leaves that out."""
    probe: bool = False
    """Tokenizers and autoencoders: fit a linear classifier to their frozen latents instead; writes probe.json."""
    outliers: str | None = None
    """Models that draw images: tell a data set, noise, mirrored images or a folder from held-out images instead, by
    likelihood and what repairs it; writes outliers.json. With --features, by a classifier's doubt, too."""
    pictures: int | None = None
    """How many images to measure, and to draw; by default 2000 for a tokenizer or a model of codes, else 512."""
    out: Path | None = None
    """Folder for the results; by default that of the checkpoint given."""
    data: Path | None = None
    """Folder where the images lie now, if that isn't where the run found them."""
    recipe: Path | None = None
    """The Python file of your own recipe that the checkpoint was made by; it is run."""
    device: str = "auto"
    """Where to compute, as torch names it, for example cpu or cuda:1."""


def measure(options: EvaluateOptions) -> None:
    """Measures what the options of `evaluate` ask for, and writes and prints it."""
    from ..data.images import Part, evenly
    from ..evaluation.diffusion_report import as_json
    from ..recipes.features import features_named
    from ..recipes.runs import images_to_measure, trained
    from ..systems.generative import GenerativeSystem
    from ..systems.student import StudentSystem
    from ..training import checkpoint
    from .against import Measured, compare

    _check(options)
    device = device_named(options.device)
    saved = checkpoint.read(options.checkpoint)
    recipe, settings, system = trained(saved, options.recipe)
    settings = _with_data(settings, options.data)
    given, head = options.checkpoint, {"recipe": saved.state["recipe"], "step": saved.state["step"]}
    out = options.out or (given.parent if given.is_file() else given)
    if saved.images.frames is not None:
        for name in ("features", "outliers", "probe"):
            _refuse(options, name, "model of images", head["recipe"])
    if options.probe:
        for name in _OF_PROBE:
            _refuse(options, name, "measurement without --probe", head["recipe"])
        print(f"{probe(system, recipe, settings, out, head, device, options.pictures)}\nwritten to {out}")
        return
    if options.outliers is not None:
        for name in _OF_OUTLIERS:
            _refuse(options, name, "measurement without --outliers", head["recipe"])
        shared: dict[str, Any] = {"pictures": options.pictures, "classifier": options.features}
        print(outliers(options.outliers, system, recipe, settings, out, head, device, **shared))
        print(f"written to {out}")
        return
    _refuse_others(options, system, head["recipe"])
    images, held_out = images_to_measure(recipe, settings)
    seen = "held out" if held_out else "that the model was trained on"
    if images.format.shape != saved.images.shape:
        which = "the held-out ones" if held_out else "those that it was trained on"
        raise UserError(
            f"the model is for images of shape {saved.images.shape}, but {which} have shape {images.format.shape}"
        )
    if isinstance(system, StudentSystem) and (options.teacher is not None or options.features is None):
        print(f"{_beside_teacher(options, system, saved, images, out, head, device)}\nwritten to {out}")
        return
    some, system = Part(images, evenly(len(images), options.pictures or system.examined)), system.to(device)
    features = None if options.features is None else features_named(options.features, saved.images.channels, device)
    asked = {name: getattr(options, name) for name in _OF_SOME} | {
        "embed": None if features is None else features.embed,
        "learning_rate": settings.learning_rate,
    }
    comparison = None
    try:
        if isinstance(system, GenerativeSystem) and features is not None:
            run = Measured(system, saved.images, some, held_out, lambda: recipe.pictures(settings))
            drawing: dict[str, Any] = {
                "by_class": options.by_class,
                "guidance": options.guidance,
                "steps": _one(options.steps),
            }
            comparison = compare(run, options.against, features, device=device, **drawing)
        findings = system.examine(some, device=device, **{name: asked[name] for name in system.examined_by})
    except ValueError as error:
        raise UserError(f"the model in {saved.path} cannot be measured: {error}") from error
    head["held_out"] = held_out
    if comparison is not None:
        head |= comparison.head()
    elif isinstance(system, GenerativeSystem):
        head |= {"fid": None, "rfid": None}
    if features is not None:
        head["features"] = {"name": features.name, "digest": features.digest}
    lines = [*findings.lines, *([] if comparison is None else comparison.lines())]
    if not lines:
        raise UserError(
            f"the recipe {saved.state['recipe']} trains a model without an exact likelihood to measure: give "
            "--features, and the images that it draws are compared with others"
        )
    with writing(out):
        findings.write(out, as_json(head))
        if comparison is not None:
            comparison.write(out)
    print("\n".join([*lines, f"images: {len(some)} {seen}", f"written to {out}"]))


def _check(options: EvaluateOptions) -> None:
    bounds = {"pictures": (2, None), "bins": (1, _MOST_BINS), "transfer_steps": (0, None), "beam": (1, MOST_BEAM)}
    for name, (least, most) in bounds.items():
        value = getattr(options, name)
        if value is not None and (value < least or (most is not None and value > most)):
            raise UserError(
                f"--pictures must be at least 2, --bins at least 1 and at most {_MOST_BINS}, --transfer-steps at least "
                f"0, and --beam at least 1 and at most {MOST_BEAM}"
            )
    for steps in options.steps or ():
        if not 1 <= steps <= MOST_SAMPLING_STEPS:
            raise UserError(f"--steps must be at least 1 and at most {MOST_SAMPLING_STEPS}, got {steps}")
    if options.guidance is not None and not abs(options.guidance) <= MOST_GUIDANCE:
        raise UserError(f"--guidance must lie in [-{MOST_GUIDANCE}, {MOST_GUIDANCE}], got {options.guidance}")


def _refuse_others(options: EvaluateOptions, system: System, recipe: str) -> None:
    """`UserError` for an option that is for systems of another kind."""
    from ..systems.generative import GenerativeSystem
    from ..systems.student import StudentSystem

    draws = isinstance(system, GenerativeSystem)
    kinds = {name: kind for name, kind in _OF_SOME.items() if name not in system.examined_by}
    if not isinstance(system, StudentSystem):
        kinds["teacher"] = "few-step model"
    if not draws:
        kinds |= dict.fromkeys(_OF_DRAWN, "model that draws images")
        if "embed" not in system.examined_by:
            kinds["features"] = "tokenizer or a model that draws images"
    for name, kind in kinds.items():
        _refuse(options, name, kind, recipe)
    if draws and options.features is None and options.teacher is None:
        for name in _OF_DRAWN:
            if getattr(options, name) not in (None, False):
                raise UserError(f"--{name.replace('_', '-')} needs --features: drawn images are compared by these")


def _refuse(options: EvaluateOptions, name: str, kind: str, recipe: str) -> None:
    if getattr(options, name) not in (None, False):
        raise UserError(f"--{name.replace('_', '-')} is for a {kind}, and the recipe {recipe} trains none")


def _one(steps: tuple[int, ...] | None) -> int | None:
    if steps is not None and len(steps) != 1:
        raise UserError(f"--steps must be one number, without --teacher, got {len(steps)}")
    return None if steps is None else steps[0]


def _beside_teacher(
    options: EvaluateOptions,
    system: StudentSystem,
    saved: Checkpoint,
    images: Images,
    out: Path,
    head: dict[str, Any],
    device: torch.device,
) -> str:
    from .few_steps import compare

    return compare(
        *(system, saved, images, out),
        teacher=options.teacher,
        features=options.features,
        steps=options.steps,
        pictures=options.pictures or system.examined,
        device=device,
        head=head,
    )


def _with_data(settings: TrainingSettings, data: Path | None) -> TrainingSettings:
    """The settings with the images' folder at `data`, where that is given."""
    if data is None:
        return settings
    if not hasattr(settings, "data"):
        raise UserError("--data is for recipes whose images lie in a folder, and this run's recipe has none")
    return replace(settings, data=str(data))  # type: ignore[call-arg]  # which it has

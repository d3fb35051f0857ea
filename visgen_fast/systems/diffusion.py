"""What is trained when a diffusion model is, and how its images are drawn."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..data.images import AT_A_TIME, Images, to_range
from ..data.order import Batch
from ..diffusion.guidance import ClassifierFree
from ..diffusion.guiding import Interval
from ..diffusion.objective import DiffusionObjective
from ..diffusion.plan import Plan, plan
from ..diffusion.sampling import Callback, sample
from ..tokenizers.first_stage import FirstStage
from ..training.system import System
from .classes import check_labels, check_options

logger = logging.getLogger(__name__)

# The sample grids of a run show some classes, so many images of each; a single class, or captions, fill a grid.
_GRID_CLASSES, _GRID_COLUMNS, _GRID_IMAGES = 10, 10, 40


class GenerativeSystem(System):
    """A system that draws images, of classes unless it is not `conditional`: then labels tell it nothing."""

    @property
    def conditional(self) -> bool:
        return True

    @abstractmethod
    def sample(self, labels: Tensor, seeds: Tensor, *, callback: Callback | None = None, **options: Any) -> Tensor:
        """Images of classes `labels` int64[B], drawn from `seeds` int64[B]: float [B, C, H, W] in [−1, 1].

        callback: as of `visgen_fast.diffusion.sample`. options: of the system's sampler, each by default the system's
        own. ValueError for labels that are no classes, and for options that are none or don't fit together.
        """

    @abstractmethod
    def options(self, **asked: Any) -> dict[str, Any]:
        """Every option that `sample` would draw with, if it were asked for these; `steps` is one. What it raises."""

    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Samples of some classes, or one of each of some captions; without classes just samples."""
        format = images.format
        if not self.conditional:
            return draw_samples(self, [0], _GRID_IMAGES, seed=seed, device=device), ()
        if format.captions:
            drawn = draw_samples(self, format.some_labels(_GRID_IMAGES), 1, seed=seed, device=device)
            return drawn.transpose(0, 1), ()
        labels = format.some_labels(_GRID_CLASSES)
        count = _GRID_COLUMNS if len(labels) > 1 else _GRID_IMAGES
        drawn = draw_samples(self, labels, count, seed=seed, device=device)
        return drawn, [format.class_names[label] for label in labels]


def draw_samples(
    system: GenerativeSystem,
    labels: Sequence[int],
    count: int,
    *,
    seed: int | Sequence[int],
    device: torch.device | str,
    callback: Callback | None = None,
    known: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`count` images of each class in `labels` by each seed: [len(labels), seeds × count, C, H, W] in [−1, 1].

    An image depends on its seed, its class and its place among the images of these two, and on nothing else. They are
    drawn `AT_A_TIME`; callback and options are as of `GenerativeSystem.sample`. known: for a system of codes, those of
    each image that are given, [images, *grid, Q] in the order of the result.
    """
    run_seeds = [seed] if isinstance(seed, int) else seed
    seeds = torch.cat([seeds_of(one, label, count) for label in labels for one in run_seeds])
    classes = torch.tensor(labels).repeat_interleave(count * len(run_seeds))
    some_classes, some_seeds = classes.split(AT_A_TIME), seeds.split(AT_A_TIME)
    given: list[dict[str, Tensor]] = [{} for _ in some_seeds]
    if known is not None:
        given = [{"known": part.to(device)} for part in known.split(AT_A_TIME)]
    chunks = [
        system.sample(labels.to(device), own.to(device), callback=callback, **codes, **options)
        for labels, own, codes in zip(some_classes, some_seeds, given, strict=True)
    ]
    return torch.cat(chunks).unflatten(0, (len(labels), -1))


def seeds_of(seed: int, label: int, count: int) -> Tensor:
    """The seeds int64 [count] of the images of class `label` that are drawn by `seed`."""
    return ops.derive_seeds(seed, torch.arange(count), step=label, purpose=ops.Purpose.INITIAL_STATE)


@dataclass(frozen=True)
class SamplerSettings:
    """How a diffusion system draws images.

    guidance: scale of classifier-free guidance, 1 is off; interval, rescale: of it (`ClassifierFree`). All others are
    arguments of `plan`; None leaves the sampler its own.
    """

    steps: int
    guidance: float
    sampler: str = "euler"
    spacing: str = "linear"
    shift: float | None = None
    order: int | None = None
    eta: float | None = None
    variant: str | None = None
    variance: str | None = None
    churn: float | None = None
    interval: Interval | None = None
    rescale: float = 0.0


_OF_THE_SAMPLER = ("order", "eta", "variant", "variance", "churn")


class DiffusionSystem(GenerativeSystem):
    """A class-conditional network `model(x_t, t, labels)` with a diffusion objective.

    shape: of an image, or of its latents where there is a first stage: then these are what is noised and drawn, and
    images are what they decode to. A new run measures the spread of its latents before it begins.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: DiffusionObjective,
        shape: tuple[int, ...],
        sampler: SamplerSettings,
        first_stage: FirstStage | None = None,
    ) -> None:
        super().__init__()
        if first_stage is not None and first_stage.shape != tuple(shape):
            raise ValueError(f"shape must be that of the first stage's latents, {first_stage.shape}, got {shape}")
        self.model, self.objective, self.shape, self.sampler = model, objective, shape, sampler
        self.first_stage, self.frozen = first_stage, () if first_stage is None else ("first_stage",)
        self._told = False

    def begin(self, images: Images, *, device: torch.device) -> None:
        if self.first_stage is not None:
            self.first_stage.measure(images)

    def forward(self, batch: Batch) -> Tensor:
        x = batch.images
        if self.first_stage is not None:
            x = self.first_stage.encode(to_range(x), batch.seeds)
        return self.objective(self.model, x, batch.labels, batch.seeds, batch.positions)

    def after_step(self) -> None:
        self.objective.after_step()

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, *, callback: Callback | None = None, **options: Any) -> Tensor:
        null = self.objective.null_label
        if isinstance(null, int):
            check_labels(labels, null)
        settings = self._settings(options)
        guidance = ClassifierFree(settings.guidance, null, interval=settings.interval, rescale=settings.rescale)
        plan, network = self._plan(settings), self.objective.network(self.model)
        stage = self.first_stage
        if stage is None:
            return sample(network, plan, self.shape, labels, seeds, guidance=guidance, callback=callback)

        def decoded(step: int, t: float, x: Tensor, denoised: Tensor) -> None:
            if callback is not None:
                callback(step, t, stage.decode(x), stage.decode(denoised))

        watch = None if callback is None else decoded
        return stage.decode(sample(network, plan, self.shape, labels, seeds, guidance=guidance, callback=watch))

    def options(self, **asked: Any) -> dict[str, Any]:
        settings = self._settings(asked)
        self._plan(settings)
        return {name: value for name, value in asdict(settings).items() if value is not None}

    def _settings(self, asked: dict[str, Any]) -> SamplerSettings:
        check_options(asked, [field.name for field in fields(SamplerSettings)], "a diffusion system")
        settings = replace(self.sampler, **{name: value for name, value in asked.items() if value is not None})
        settings = replace(settings, guidance=self._guidance(asked.get("guidance")))
        for name in ("interval", "rescale"):
            if asked.get(name) and settings.guidance == 1:
                raise ValueError(f"{name} changes guidance, and there is none: guidance is 1")
        return settings

    def _plan(self, settings: SamplerSettings) -> Plan:
        return plan(
            settings.sampler,
            self.objective.schedule,
            self.objective.prediction,
            steps=settings.steps,
            spacing=settings.spacing,
            shift=settings.shift,
            **{name: value for name in _OF_THE_SAMPLER if (value := getattr(settings, name)) is not None},
        )

    def _guidance(self, asked: float | None) -> float:
        """The weight of guidance to draw with: the one asked for, or the system's own.

        A network that always saw the label, or never did, has nothing to be guided by: it draws as it was trained.
        """
        wanted = self.sampler.guidance if asked is None else asked
        only = {0.0: 1.0, 1.0: 0.0}.get(self.objective.label_drop, wanted)
        if wanted != only and asked is not None:
            raise ValueError(
                f"guidance must be {only:g} for a model that was trained with label_drop {self.objective.label_drop:g}"
                f", got {asked}"
            )
        if wanted != only and not self._told:
            self._told = True
            logger.warning(
                "images are drawn with guidance %g, not %g, because label_drop was %g",
                *(only, wanted, self.objective.label_drop),
            )
        return only

"""What is trained when a diffusion model is, and how its images are drawn."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..data.images import AT_A_TIME, Images
from ..data.order import Batch
from ..diffusion.guidance import ClassifierFree
from ..diffusion.objective import DiffusionObjective
from ..diffusion.plan import plan
from ..diffusion.sampling import sample
from ..training.system import System

logger = logging.getLogger(__name__)

# The sample grids of a run show some classes, so many images of each; a single class, or captions, fill a grid.
_GRID_CLASSES, _GRID_COLUMNS, _GRID_IMAGES = 10, 10, 40


class GenerativeSystem(System):
    """A system that draws images of classes."""

    @abstractmethod
    def sample(
        self, labels: Tensor, seeds: Tensor, *, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Images of classes `labels` int64[B], drawn from `seeds` int64[B]: float [B, C, H, W] in [−1, 1].

        `steps` and `guidance` default to the system's own. ValueError for labels that are no classes.
        """

    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Samples of some classes, or one of each of some captions."""
        format = images.format
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
    seed: int,
    device: torch.device | str,
    steps: int | None = None,
    guidance: float | None = None,
) -> Tensor:
    """`count` images of each class in `labels`: [len(labels), count, C, H, W] in [−1, 1].

    An image depends on `seed`, its class and its place among the images of its class, and on nothing else.
    """
    places = torch.arange(count)
    seeds = torch.cat(
        [ops.derive_seeds(seed, places, step=label, purpose=ops.Purpose.INITIAL_STATE) for label in labels]
    )
    classes = torch.tensor(labels).repeat_interleave(count)
    chunks = [
        system.sample(some_classes.to(device), some_seeds.to(device), steps=steps, guidance=guidance)
        for some_classes, some_seeds in zip(classes.split(AT_A_TIME), seeds.split(AT_A_TIME), strict=True)
    ]
    return torch.cat(chunks).unflatten(0, (len(labels), count))


@dataclass(frozen=True)
class SamplerSettings:
    """How a diffusion system draws images: solver steps, and the weight of classifier-free guidance (1 is off)."""

    steps: int
    guidance: float


class DiffusionSystem(GenerativeSystem):
    """A class-conditional network `model(x_t, t, labels)` with a diffusion objective."""

    def __init__(
        self, model: nn.Module, objective: DiffusionObjective, shape: tuple[int, ...], sampler: SamplerSettings
    ) -> None:
        super().__init__()
        self.model, self.objective, self.shape, self.sampler = model, objective, shape, sampler
        self._told = False

    def forward(self, batch: Batch) -> Tensor:
        return self.objective(self.model, batch.images, batch.labels, batch.seeds)

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        null = self.objective.null_label
        if isinstance(null, int) and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < null:
            raise ValueError(f"labels must lie in [0, {null}), got {int(labels.min())} to {int(labels.max())}")
        steps = self.sampler.steps if steps is None else steps
        return sample(
            self.model,
            plan("euler", self.objective.schedule, self.objective.prediction, steps=steps),
            self.shape,
            labels,
            seeds,
            guidance=ClassifierFree(self._guidance(guidance), null),
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

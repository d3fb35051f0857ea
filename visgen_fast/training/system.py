"""What is trained: one or several networks with the loss that teaches them and the way to draw pictures with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..diffusion.objective import DiffusionObjective
from ..diffusion.solvers import sample
from .data.order import Batch
from .data.pictures import AT_A_TIME, Pictures

# The sample grids of a run show the first classes, so many pictures of each.
_GRID_CLASSES, _GRID_COLUMNS, _GRID_SINGLE_CLASS = 10, 10, 40


class System(nn.Module, ABC):
    """Networks, as sub-modules, with their loss. The loop knows nothing else about what it trains.

    The module holds everything that has weights, so that data-parallel wrapping, the moving average and checkpoints
    treat one network and several alike. A frozen network is one whose parameters need no gradient.

    figure: the name of the run's figure; metric_names: of what `metrics` measures while the system trains.
    """

    figure: str = "samples"
    metric_names: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of every picture of the batch, [B]."""

    @abstractmethod
    def draw(self, pictures: Pictures, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """The run's figure: rows of pictures [rows, columns, C, H, W] in [−1, 1], and the rows' names.

        `pictures` were held out from training where the recipe holds some out.
        """

    @property
    def per_micro_batch(self) -> tuple[str, ...]:
        """What training draws for, or takes over, a rank's micro-batch: it depends on which pictures share that.

        All else that a step does is the same whatever the number of ranks and of accumulated micro-batches.
        """
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules() if module.training)
        return ("dropout",) if drops else ()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters to train, as groups for the optimizer; each group's gradient is clipped on its own.

        Besides the optimizer's own options a group may have a `rate_factor` on the learning rate and a `beta1` of its
        own.
        """
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def before_step(self, step: int) -> None:
        """Called before the micro-batches of optimizer step `step` (0 is the first)."""

    def after_step(self) -> None:
        """Called when the optimizer has stepped: for what learns otherwise than by gradients."""

    def metrics(self) -> dict[str, Tensor]:
        """The scalars `metric_names`, over this rank's pictures since the last call."""
        return {}

    def evaluate(self, pictures: Pictures, *, device: torch.device) -> dict[str, float]:
        """What a finished run is worth, measured on pictures that were held out."""
        return {}


class GenerativeSystem(System):
    """A system that draws pictures of classes."""

    @abstractmethod
    def sample(
        self, labels: Tensor, seeds: Tensor, *, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Pictures of classes `labels` int64[B], drawn from `seeds` int64[B]: float [B, C, H, W] in [−1, 1].

        `steps` and `guidance` default to the system's own.
        """

    def draw(self, pictures: Pictures, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Samples of the first classes."""
        names = pictures.format.class_names[:_GRID_CLASSES]
        count = _GRID_COLUMNS if len(names) > 1 else _GRID_SINGLE_CLASS
        return draw_samples(self, range(len(names)), count, seed=seed, device=device), names


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
    """`count` pictures of each class in `labels`: [len(labels), count, C, H, W] in [−1, 1].

    A picture depends on `seed`, its class and its place among the pictures of its class, and on nothing else.
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
    """How a diffusion system draws pictures: solver steps, and the weight of classifier-free guidance (1 is off)."""

    steps: int
    guidance: float


class DiffusionSystem(GenerativeSystem):
    """A class-conditional network `model(x_t, t, labels)` with a diffusion objective."""

    def __init__(
        self, model: nn.Module, objective: DiffusionObjective, shape: tuple[int, int, int], sampler: SamplerSettings
    ) -> None:
        super().__init__()
        self.model, self.objective, self.shape, self.sampler = model, objective, shape, sampler

    def forward(self, batch: Batch) -> Tensor:
        return self.objective(self.model, batch.pixels, batch.labels, batch.seeds)

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        return sample(
            self.model,
            self.shape,
            labels,
            seeds,
            schedule=self.objective.schedule,
            prediction=self.objective.prediction,
            steps=self.sampler.steps if steps is None else steps,
            guidance=self.sampler.guidance if guidance is None else guidance,
            null_label=self.objective.null_label,
        )

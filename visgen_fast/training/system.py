"""What is trained: one or several networks with the loss that teaches them and the way to draw pictures with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diffusion.objective import DiffusionObjective
from ..diffusion.solvers import sample
from .data.order import Batch


class System(nn.Module, ABC):
    """Networks, as sub-modules, with their loss. The loop knows nothing else about what it trains.

    The module holds everything that has weights, so that data-parallel wrapping, the moving average and checkpoints
    treat one network and several alike. A frozen network is one whose parameters need no gradient.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """The loss of every picture of the batch, [B]."""

    @abstractmethod
    def sample(
        self, labels: Tensor, seeds: Tensor, *, steps: int | None = None, guidance: float | None = None
    ) -> Tensor:
        """Pictures of classes `labels` int64[B], drawn from `seeds` int64[B]: float [B, C, H, W] in [−1, 1].

        `steps` and `guidance` default to the system's own.
        """


@dataclass(frozen=True)
class SamplerSettings:
    """How a diffusion system draws pictures: solver steps, and the weight of classifier-free guidance (1 is off)."""

    steps: int
    guidance: float


class DiffusionSystem(System):
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

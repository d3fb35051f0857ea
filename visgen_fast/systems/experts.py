"""What is trained when each interval of noise levels has a network of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from .. import ops
from ..data.order import Batch
from ..diffusion.guidance import drop_labels
from ..diffusion.objective import DiffusionObjective
from ..models.experts import Experts
from ..training.system import Player
from .diffusion import DiffusionSystem, SamplerSettings


class ExpertsSystem(DiffusionSystem):
    """A diffusion system whose network is `Experts`: each learns at the times of its own interval, and at no others.

    Every expert is a player: in a step it sees the whole batch at times of its interval, has its own optimizer, and its
    gradient is clipped alone. So one run is as many runs beside each other, the branches of eDiff-I (Balaji et al.,
    2022, section 4), and what one expert learns depends on no other; a step costs as much as one of each of them.

    shares: the shares, rising, of the objective's times below the experts' edges. ValueError unless they lie in (0, 1)
    and are as many as the edges.
    """

    model: Experts

    def __init__(
        self,
        model: Experts,
        objective: DiffusionObjective,
        shape: tuple[int, ...],
        sampler: SamplerSettings,
        shares: Sequence[float],
    ) -> None:
        super().__init__(model, objective, shape, sampler)
        bounds = (0.0, *shares, 1.0)
        self.intervals = list(zip(bounds, bounds[1:], strict=False))
        if len(self.intervals) != len(model.experts) or any(low >= high for low, high in self.intervals):
            raise ValueError(f"shares must rise in (0, 1) and be {len(model.edges)}, got {tuple(shares)}")

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(0, batch)

    def players(self) -> Sequence[Player]:
        return [
            Player(f"expert_{place + 1}", list(expert.parameters()), partial(self._loss, place))
            for place, expert in enumerate(self.model.experts)
        ]

    def _loss(self, place: int, batch: Batch) -> Tensor:
        """The loss of an expert at times of its interval, [B]."""
        objective, (low, high) = self.objective, self.intervals[place]
        labels = drop_labels(batch.labels, batch.seeds, objective.label_drop, objective.null_label)
        shares = ops.uniform(batch.seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        t = objective.times.quantile(low + (high - low) * shares)
        return objective.losses_at(self.model.experts[place], batch.images, labels, batch.seeds, t)

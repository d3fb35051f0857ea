"""What is trained when each interval of noise levels has a network of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from .. import ops
from ..data.order import Batch
from ..diffusion.prior import DiffusionPrior
from ..models.experts import Experts
from ..nn.class_condition import Labels
from ..training.system import Player
from .prior import PriorSystem, Stage


class ExpertsSystem(PriorSystem):
    """A diffusion prior whose network is `Experts`: each learns at the times of its own interval, and at no others.

    Every expert is a player: in a step it sees the whole batch at times of its interval, has its own optimizer, and its
    gradient is clipped alone. So one run is as many runs beside each other, the branches of eDiff-I (Balaji et al.,
    2022, section 4), and what one expert learns depends on no other; a step costs as much as one of each of them.

    shares: the shares, rising, of the objective's times below the experts' edges. ValueError unless they lie in (0, 1)
    and are as many as the edges.
    """

    prior: DiffusionPrior

    def __init__(self, prior: DiffusionPrior, condition: Labels, first_stage: Stage, shares: Sequence[float]) -> None:
        super().__init__(prior, condition, first_stage)
        bounds = (0.0, *shares, 1.0)
        self.intervals = list(zip(bounds, bounds[1:], strict=False))
        if len(self.intervals) != len(self.experts.experts) or any(low >= high for low, high in self.intervals):
            raise ValueError(f"shares must rise in (0, 1) and be {len(self.experts.edges)}, got {tuple(shares)}")

    @property
    def experts(self) -> Experts:
        assert isinstance(self.prior.model, Experts)
        return self.prior.model

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(0, batch)

    def players(self) -> Sequence[Player]:
        return [
            Player(f"expert_{place + 1}", list(expert.parameters()), partial(self._loss, place))
            for place, expert in enumerate(self.experts.experts)
        ]

    def _loss(self, place: int, batch: Batch) -> Tensor:
        """The loss of an expert at times of its interval, [B]."""
        objective, (low, high) = self.prior.objective, self.intervals[place]
        x, told = self.first_stage.encode(batch.images, batch.seeds), self.told(batch.labels, batch.seeds)
        shares = ops.uniform(batch.seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        t = objective.times.quantile(low + (high - low) * shares)
        return objective.losses_at(self.experts.experts[place], x, told, batch.seeds, t)

"""Taking a plan's rows, one after the other, on one state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from visgen_fast import ops

from ..nn.conditions import AnyCondition
from .guiding import Guidance, Guided, Run

Watch = Callable[[Tensor, Guided], None]
STREAM = ops.Purpose.SAMPLER.stream()


class Steps:
    """The rows of a run's plan, taken in order, in place, on the state `x`. `table` is that of the guidance."""

    def __init__(self, run: Run, guidance: Guidance) -> None:
        self.run, self.guidance, self.guiding = run, guidance, guidance.begin(run)
        self.table = self.guiding.table
        self.learned = run.plan.learned_variance

    @contextmanager
    def on(self, x: Tensor, seeds: Tensor, labels: AnyCondition) -> Iterator[None]:
        """Inside, rows are taken on this state; the labels are of the run's kind."""
        self.x, self.seeds = x, seeds
        self.slots = tuple(torch.empty_like(x) for _ in range(self.run.plan.slots))
        self.times = self.run.plan.times.to(x.device, x.dtype)[:, None].expand(-1, len(x)).unbind()
        yield

    def take(self, row: int, watch: Watch | None) -> None:
        """One network call, and what follows from it; `watch` sees the state before it and what the network said."""
        guided = self.guided(self.times[row], row)
        if watch is not None:
            watch(self.x.clone(), guided)
        self.step(row, guided)

    def end(self) -> Tensor:
        """The state, which the caller may keep."""
        return self.x

    def guided(self, t: Tensor, row: int) -> Guided:
        self.run.variances.clear()
        return self.guiding.evaluate(self.x, t, row)

    def step(self, row: int | Tensor, guided: Guided) -> None:
        ops.solver_step_(
            *(self.x, guided.outputs, self.table, row),
            slots=self.slots,
            weights=guided.weights,
            seeds=self.seeds,
            stream=STREAM,
            variance=self._variance() if self.learned else None,
            limit=guided.limit,
        )

    def _variance(self) -> Tensor:
        """What the network said of the variance in this row."""
        if not self.run.variances:
            channels = 2 * self.x.shape[1] if self.x.dim() > 1 else 2
            raise ValueError(
                f"this plan for {self.run.plan.sampler} needs a model that says the noise's variance in a second half "
                f"of its channels: an output of {channels} channels"
            )
        return self.run.variances[0]

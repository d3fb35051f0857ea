"""Where chains of contrastive divergence begin: at states that earlier chains reached, which seeds rebuild."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .. import ops
from .contrastive import langevin


class ReplayBuffer(nn.Module):
    """States of each class that chains from noise have reached, in the energy as it was some steps before.

    Every `refresh` steps the energy's parameters are copied, and all states are drawn anew, by chains in the energy of
    the copy. So they follow from the copy and from seeds: a checkpoint holds the copy alone, and a resumed run draws
    the same states again.

    energy: a module, (x [B, *shape], labels int64 [B]) → [B]. classes: of labels; each has `per_class` states. steps,
    step_size: of a chain, as of `langevin`. seed: of the run.

    Source: Du and Mordatch, "Implicit generation and modeling with energy-based models", 2019, where the states of a
    buffer are those of all former weights.
    """

    def __init__(
        self,
        energy: nn.Module,
        shape: Sequence[int],
        *,
        classes: int,
        per_class: int,
        refresh: int,
        steps: int,
        step_size: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.former = copy.deepcopy(energy).requires_grad_(False).eval()
        self.shape, self.classes, self.per_class = tuple(shape), classes, per_class
        self.refresh, self.steps, self.step_size, self.seed = refresh, steps, step_size, seed
        self._drawn: tuple[int, Tensor] | None = None  # the step it was drawn at, and the states

    def train(self, mode: bool = True) -> ReplayBuffer:
        """Evaluation mode always: what the copy draws is random by its seeds alone."""
        return super().train(False)

    @torch.no_grad()
    def before_step(self, energy: nn.Module, step: int) -> None:
        """Called before every optimizer step, 0 is the first, with the energy that learns."""
        first = step - step % self.refresh
        if step == first:
            for own, learned in zip(self.former.parameters(), energy.parameters(), strict=True):
                # Where weights are sharded, the copy is whole on every rank.
                own.copy_(learned.full_tensor() if isinstance(learned, DTensor) else learned)
        if self._drawn is None or self._drawn[0] != first:
            device = next(self.former.parameters()).device
            places = torch.arange(self.classes * self.per_class, device=device)
            seeds = ops.derive_seeds(self.seed, places, step=first, purpose=ops.Purpose.COUPLING)
            self._drawn = first, self.chains(self.former, places // self.per_class, seeds)

    def chains(self, energy: nn.Module, labels: Tensor, seeds: Tensor, *, more: int = 0) -> Tensor:
        """Where chains from noise end after `steps` and `more`, [B, *shape], of labels and seeds int64 [B]."""
        start = ops.gaussian(seeds, self.shape, stream=ops.Purpose.INITIAL_STATE.stream())
        steps, step_size = self.steps + more, self.step_size
        return langevin(lambda x: energy(x, labels), start, seeds, steps=steps, step_size=step_size)

    def states(self, labels: Tensor, seeds: Tensor) -> Tensor:
        """A state of each of the labels int64 [B], chosen by the seeds int64 [B]: [B, *shape]."""
        assert self._drawn is not None  # before_step has drawn them
        share = ops.uniform(seeds, (1,), stream=ops.Purpose.COUPLING.stream()).squeeze(1).double()
        return self._drawn[1][labels * self.per_class + (share * self.per_class).ceil().long() - 1]

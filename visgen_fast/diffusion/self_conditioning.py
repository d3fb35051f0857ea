"""Latent self-conditioning: a network's latents begin where its pass before left them.

Jabri, Fleet and Chen, "Scalable adaptive computation for iterative generation" (RIN), 2023, section 3.2. In sampling
that is the step before. Training has no step before, so the network passes over a part of the images twice, and learns
by the second pass alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..models.rin import RIN
from ..nn.conditions import AnyCondition, apply_to_parts
from .flow_map import without_gradient
from .objective import DiffusionObjective
from .prior import DiffusionPrior, SamplerSettings


class SelfConditionedPrior(DiffusionPrior):
    """A `DiffusionPrior` of a `RIN`.

    share: of the images whose latents begin, in training, as a first pass without gradient left them, in [0, 1]. At 0
    latents never do, in sampling neither. ValueError for a share outside.
    """

    model: RIN

    def __init__(self, model: RIN, objective: DiffusionObjective, sampler: SamplerSettings, share: float = 0.5) -> None:
        super().__init__(model, objective, sampler)
        check.real(share, "share", 0, 1)
        self.share = share

    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        if self.share == 0:
            return super().loss(x, condition, seeds, positions)
        chance = ops.uniform(seeds, (1,), stream=ops.Purpose.CONDITION.stream()).squeeze(1)
        return self.objective(self.twice(chance <= self.share), x, condition, seeds, positions)

    def twice(self, begun: Tensor) -> Callable[..., Tensor]:
        """The model as a function of (x_t, t, labels), after a first pass over the samples that bool [B] chooses.

        Where it chooses none, the pass is over one, and forgotten: every rank calls the blocks of a network in shards.
        """

        def predict(x_t: Tensor, t: Tensor, labels: AnyCondition) -> Tensor:
            chosen = begun.nonzero().squeeze(1)
            passed = chosen if len(chosen) else chosen.new_zeros(1)
            with without_gradient():
                some: Any = apply_to_parts(labels, lambda part: part[passed])
                _, left = self.model.with_latents(x_t[passed], t[passed], some)
            latents = left.new_zeros(len(x_t), *left.shape[1:]).index_copy(0, chosen, left[: len(chosen)])
            return self.model(x_t, t, labels, latents)

        return predict

    def drawing_network(self) -> Callable[..., Tensor]:
        return self.network if self.share == 0 else self.objective.network(_Remembering(self.model))


class _Remembering:
    """The network in one trajectory: each call begins with the latents of the one before, if that had as many samples.

    Guidance may ask for more conditions in some steps than in others.
    """

    def __init__(self, model: RIN) -> None:
        self.model = model
        self.latents: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        before = self.latents if self.latents is not None and len(self.latents) == len(x_t) else None
        output, self.latents = self.model.with_latents(x_t, t, labels, before)
        return output

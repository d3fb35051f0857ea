"""The grids of a pyramid of latents, each with a noise level of its own: coarse ones may be clean first.

Diffusion forcing (Chen et al., 2024) with the grids of a pyramid in the place of frames. What an image shows as a whole
is then decided before its details are, by the network and the sampler that decide all at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition, Null
from .forcing import ForcingObjective, frame_plan, sample_frames
from .guidance import ClassifierFree
from .prior import DiffusionPrior, SamplerSettings
from .sampling import Callback

Kind = Literal["together", "pyramid", "one_by_one"]


class InARow(nn.Module):
    """A network of clips (L, 1, 1) on L latents in a row, [B, D, 1, L] or [B, D, L, 1], with times [B] or [B, L]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, t: Tensor, labels: AnyCondition) -> Tensor:
        return self.network(x_t.flatten(2)[..., None, None], t, labels).view_as(x_t)


class LevelsPrior(DiffusionPrior):
    """A `DiffusionPrior` of latents in a row, [B, D, 1, L], whose parts have a time each.

    lengths: of the parts, the coarsest first, L in all. kind: how they are drawn, as of `frame_plan`: at one level,
    each a step behind the one before it, or each when that is done.

    ValueError for lengths below 1, and for another kind.
    """

    objective: ForcingObjective

    def __init__(
        self,
        model: InARow,
        objective: ForcingObjective,
        sampler: SamplerSettings,
        lengths: Sequence[int],
        kind: Kind = "one_by_one",
    ) -> None:
        super().__init__(model, objective, sampler)
        for length in lengths:
            check.integer(length, "lengths", 1)
        frame_plan(len(lengths), 1, kind)  # which says what is wrong with the kind
        self.lengths, self.kind = tuple(lengths), kind

    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        shares = ops.uniform(seeds, (len(self.lengths),), stream=ops.Purpose.TIME.stream())
        times = self._of_places(self.objective.times.quantile(shares))
        return self.objective.losses_at(self.model, x.transpose(2, 3), condition, seeds, times)

    def draw(
        self,
        shape: tuple[int, ...],
        condition: AnyCondition,
        seeds: Tensor,
        *,
        null: Null = None,
        callback: Callback | None = None,
        initial: tuple[Tensor, float] | None = None,
        **options: object,
    ) -> Tensor:
        """See `Prior.draw`. callback: is shown latents with their noise. initial: with it all parts have one level."""
        if initial is not None:
            return super().draw(shape, condition, seeds, null=null, callback=callback, initial=initial, **options)
        settings = self._settings(options)
        times = self._of_places(frame_plan(len(self.lengths), settings.steps, self.kind))
        network = self.network
        if callback is not None:
            network = _watched(network, callback, settings.steps, len(times) - 1, len(seeds))
        drawn = sample_frames(
            *(network, self._plan(settings), times, (shape[0], shape[2], 1), condition, seeds),
            guidance=ClassifierFree(settings.guidance, null, interval=settings.interval, rescale=settings.rescale),
        )
        return drawn.transpose(2, 3)

    def _of_places(self, times: Tensor) -> Tensor:
        """Times of parts [B, parts] as those of places [B, L]."""
        return times.repeat_interleave(torch.tensor(self.lengths, device=times.device), 1)


def _watched(
    network: Callable[..., Tensor], callback: Callback, steps: int, rows: int, batch: int
) -> Callable[..., Tensor]:
    """The network, of whose `rows` calls the callback is shown `steps`, spread evenly over all."""
    calls = itertools.count()

    def predict(x: Tensor, t: Tensor, labels: AnyCondition) -> Tensor:
        call = next(calls)
        if call * steps % rows < steps:
            shown = x[:batch].transpose(2, 3)  # guidance asks for several conditions at once
            callback(call * steps // rows, float(t.mean()), shown, shown)
        return network(x, t, labels)

    return predict

"""A transformer over the places of a grid and another over the codes of a place.

The RQ-Transformer of Lee et al., "Autoregressive image generation using residual quantization", 2022, section 3.2; its
depths may as well be a pixel's channels, its bit planes, or the pixels of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..autoregression.order import raster
from ..nn.conditions import AnyCondition
from .layers.checks import check_sizes
from .layers.code_transformer import Cache, Transformer
from .layers.slot_model import SlotModel, embedding, slots_of, start_slot


@dataclass
class SpaceDepthState:
    """How far the codes are, the caches of both transformers, and of this place what the outer one gives and the sum of
    the codes so far, both [B, 1, width]."""

    label: Tensor | None
    step: int = 0
    outer: Cache | None = None
    inner: Cache | None = None
    context: Tensor = field(default_factory=lambda: torch.zeros(0))
    before: Tensor = field(default_factory=lambda: torch.zeros(0))


class SpaceDepthModel(SlotModel):
    """Codes of a place from all of the places before, and from those before it at its place.

    A slot of the outer transformer holds the sum of the embeddings of the previous place's codes. A slot of the inner
    one holds what the outer one gives for the place, and the sum of the embeddings of the place's codes before it. Each
    depth has embeddings of its own, so that the sum tells which code was whose.

    grid: of the places, drawn row by row. codes_per_place: Q, drawn one after the other. size: V. width, heads: of both
    transformers; depth, inner_depth: their blocks. classes,
    pooled, dropout: as of `SequenceModel`, and so the ValueErrors.
    """

    def __init__(
        self,
        grid: Sequence[int],
        codes_per_place: int,
        size: int,
        *,
        width: int,
        depth: int,
        inner_depth: int,
        heads: int,
        classes: int = 0,
        pooled: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        check_sizes(grid=grid, codes_per_place=codes_per_place)
        order, places = raster((*grid, codes_per_place)), math.prod(grid)
        super().__init__(order, size, width=width, places=places, classes=classes, pooled=pooled)
        self.codes_per_place = codes_per_place
        both = {"width": width, "heads": heads}
        self.outer = Transformer(torch.arange(places, device="cpu"), depth=depth, dropout=dropout, **both)
        self.inner = Transformer(
            torch.arange(codes_per_place, device="cpu"), depth=inner_depth, dropout=dropout, **both
        )
        self.embed_code, self.start = embedding(codes_per_place * size, width), start_slot(width)
        self.depths = nn.Parameter(0.02 * torch.randn(codes_per_place, width))

    def features(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        first = self.size * torch.arange(self.codes_per_place, device=codes.device)
        embedded = self.embed_code(codes.reshape(len(codes), -1, self.codes_per_place) + first)  # [B, P, Q, width]
        held = torch.cat((self.start.expand(len(codes), 1, -1), embedded.sum(2)[:, :-1]), 1)
        context = self.outer(slots_of(held, self.places, self.embed_label(condition)))
        before = F.pad(embedded[:, :, :-1].cumsum(2), (0, 0, 1, 0))
        slots = context[:, :, None] + before + self.depths
        return self.norm(self.inner(slots.flatten(0, 1))).view(*codes.shape, -1)

    def begin(self, condition: AnyCondition = None) -> SpaceDepthState:
        return SpaceDepthState(self.embed_label(condition))

    def advance(self, state: SpaceDepthState, codes: Tensor) -> Tensor:
        if state.outer is None or state.inner is None:
            state.outer, state.inner = (part.begin(len(codes), self.start) for part in (self.outer, self.inner))
        place, depth = divmod(state.step, self.codes_per_place)
        if state.step:
            state.before = state.before + self.embed_code(codes + self.size * ((depth - 1) % self.codes_per_place))
        if depth == 0:
            held = state.before if place else self.start.expand(len(codes), 1, -1)
            slots = slots_of(held, self.places[place], state.label)
            state.context = self.outer.advance(state.outer, slots)
            state.before, state.inner.length = torch.zeros_like(state.context), 0
        state.step += 1
        slots = state.context + state.before + self.depths[depth]
        return state.inner.product(self.head, self.norm(self.inner.advance(state.inner, slots)))

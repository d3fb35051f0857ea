"""A transformer over grids of codes of rising size, each drawn at once: VAR.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction", 2024, section 3.1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..autoregression.order import scale_by_scale
from ..nn.conditions import AnyCondition
from ..nn.next_scale_quantizer import MultiscaleQuantizer
from .layers.code_transformer import Cache, Transformer
from .layers.slot_model import SlotModel, slots_of, start_slot


@dataclass
class ScaleState:
    """Which scale comes next, and what the scales before have left: their features f̂ and the slots' keys and values."""

    label: Tensor | None
    scale: int = 0
    features: Tensor | None = None
    cache: Cache | None = None


class ScaleModel(SlotModel):
    """Predicts all codes [L, 1] of a scale together, from those of all coarser scales.

    A slot holds what the coarser scales say of its place: their features f̂, averaged down to its grid; those of the
    first scale hold a learned start. It sees all slots of its own and of coarser scales.

    quantizer: whose codes these are. The model keeps a copy of it, which stays as it is. width, depth, heads, classes,
    pooled, dropout: as of `SequenceModel`, and so the ValueErrors.
    """

    def __init__(
        self,
        quantizer: MultiscaleQuantizer,
        *,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        pooled: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        order = scale_by_scale(quantizer.grids)
        super().__init__(order, quantizer.size, width=width, places=order.length, classes=classes, pooled=pooled)
        self.quantizer = copy.deepcopy(quantizer).eval().requires_grad_(False)
        steps = order.steps.flatten()
        self.transformer = Transformer(steps, width=width, depth=depth, heads=heads, dropout=dropout)
        self.embed_features = nn.Linear(quantizer.dimensions, width) if quantizer.scales > 1 else None
        self.start = start_slot(width)

    def features(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        held = [self._started(len(codes))]
        if self.embed_features is not None:
            held.append(self._held(self.quantizer.to_next_scale_inputs(codes)))
        slots = slots_of(torch.cat(held, 1), self.places, self.embed_label(condition))
        return self.norm(self.transformer(slots))[:, :, None]

    def begin(self, condition: AnyCondition = None) -> ScaleState:
        return ScaleState(self.embed_label(condition))

    def advance(self, state: ScaleState, codes: Tensor) -> Tensor:
        if state.cache is None:
            state.cache = self.transformer.begin(len(codes), self.start)
        if state.scale == 0:
            held = self._started(len(codes))
        else:
            state.features = self.quantizer.add_scale(state.features, codes, state.scale - 1)
            held = self._held(self.quantizer.to_scale(state.features, state.scale))
        state.scale += 1
        places = self.places[state.cache.length :][: held.shape[1]]
        slots = slots_of(held, places, state.label)
        return state.cache.product(self.head, self.norm(self.transformer.advance(state.cache, slots)))

    def _started(self, batch: int) -> Tensor:
        return self.start.expand(batch, self.quantizer.lengths[0], -1)

    def _held(self, rows: Tensor) -> Tensor:
        """What slots hold of features [B, n, C], which the quantizer keeps in float32 or wider."""
        assert self.embed_features is not None  # there is a second scale
        return self.embed_features(rows.to(self.start.dtype))

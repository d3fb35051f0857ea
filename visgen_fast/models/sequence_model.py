"""A transformer over codes one by one, in any order: iGPT, DALL-E, VQGAN's and Parti's priors.

Chen et al., "Generative pretraining from pixels", 2020; Esser, Rombach and Ommer, "Taming transformers for
high-resolution image synthesis", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..autoregression.model import CodeModel
from ..autoregression.order import Order
from ..nn.conditions import AnyCondition
from .layers.checks import check_sizes
from .layers.code_transformer import Cache, Transformer
from .layers.labels import LabelEmbedding


@dataclass
class SequenceState:
    """How far a sequence is, and what its next slots need."""

    label: Tensor | None
    step: int = 0
    cache: Cache | None = None


class SequenceModel(CodeModel):
    """Predicts the code of each step from those of all earlier ones.

    The slot of step t holds the code of step t − 1, the place of the code that it predicts, and the label.

    order: of one code a step. size: V, the number of values of a code. width, depth, heads: of the transformer.
    classes: number of labels, to which `null_label` = classes is added as "no class"; 0 for a model without.

    ValueError where a size is below 1, heads does not divide width, or a step has several codes.
    """

    def __init__(
        self,
        order: Order,
        size: int,
        *,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if order.count != order.length:
            raise ValueError(f"order must have one code a step for a sequence, got {order}")
        check_sizes(size=size)
        self.order, self.size = order, size
        steps = torch.arange(order.length, device="cpu")
        self.transformer = Transformer(steps, width=width, depth=depth, heads=heads, dropout=dropout)
        self.embed_label = LabelEmbedding(classes, width)
        self.null_label = self.embed_label.null_label
        self.embed_code = nn.Embedding(size, width)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(order.length, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size)
        nn.init.normal_(self.embed_code.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def features(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        """What the head maps to logits: [B, *grid, Q, width]."""
        sequence = self.order.to_sequence(codes)
        held = torch.cat((self.start.expand(len(codes), 1, -1), self.embed_code(sequence[:, :-1])), 1)
        slots = self._slots(held, self.places, self.embed_label(condition))
        return self.order.to_array(self.norm(self.transformer(slots)))

    def forward(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        return self.head(self.features(codes, condition))

    def begin(self, condition: AnyCondition = None) -> SequenceState:
        return SequenceState(self.embed_label(condition))

    def advance(self, state: SequenceState, codes: Tensor) -> Tensor:
        if state.cache is None:
            state.cache = self.transformer.begin(len(codes), self.start)
        held = self.embed_code(codes) if state.step else self.start.expand(len(codes), 1, -1)
        slots = self._slots(held, self.places[state.step], state.label)
        state.step += 1
        return state.cache.product(self.head, self.norm(self.transformer.advance(state.cache, slots)))

    def _slots(self, held: Tensor, places: Tensor, label: Tensor | None) -> Tensor:
        slots = held + places
        return slots if label is None else slots + label[:, None]

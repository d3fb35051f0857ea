"""A transformer over codes one by one, in any order: iGPT, DALL-E, VQGAN's and Parti's priors.

Chen et al., "Generative pretraining from pixels", 2020; Esser, Rombach and Ommer, "Taming transformers for
high-resolution image synthesis", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..autoregression.order import Order
from ..nn.conditions import AnyCondition
from .layers.code_transformer import Cache, Transformer
from .layers.slot_model import SlotModel, embedding, slots_of, start_slot


@dataclass
class SequenceState:
    """How far a sequence is, and what its next slots need."""

    label: Tensor | None
    step: int = 0
    cache: Cache | None = None


class SequenceModel(SlotModel):
    """Predicts the code of each step from those of all earlier ones.

    The slot of step t holds the code of step t − 1, the place of the code that it predicts, and the label.

    order: of one code a step. size: V, the number of values of a code. width, depth, heads: of the transformer.
    classes: number of labels, to which `null_label` = classes is added as "no class"; 0 for a model without. pooled: in
    the place of classes, features of the pooled part of a `Condition`.

    ValueError where a size is below 1, heads does not divide width, or a step has several codes, and for both classes
    and pooled.
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
        pooled: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        if order.count != order.length:
            raise ValueError(f"order must have one code a step for a sequence, got {order}")
        super().__init__(order, size, width=width, places=order.length, classes=classes, pooled=pooled)
        steps = torch.arange(order.length, device="cpu")
        self.transformer = Transformer(steps, width=width, depth=depth, heads=heads, dropout=dropout)
        self.embed_code, self.start = embedding(size, width), start_slot(width)

    def features(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        sequence = self.order.to_sequence(codes)
        held = torch.cat((self.start.expand(len(codes), 1, -1), self.embed_code(sequence[:, :-1])), 1)
        slots = slots_of(held, self.places, self.embed_label(condition))
        return self.order.to_array(self.norm(self.transformer(slots)))

    def begin(self, condition: AnyCondition = None) -> SequenceState:
        return SequenceState(self.embed_label(condition))

    def advance(self, state: SequenceState, codes: Tensor) -> Tensor:
        if state.cache is None:
            state.cache = self.transformer.begin(len(codes), self.start)
        held = self.embed_code(codes) if state.step else self.start.expand(len(codes), 1, -1)
        slots = slots_of(held, self.places[state.step], state.label)
        state.step += 1
        return state.cache.product(self.head, self.norm(self.transformer.advance(state.cache, slots)))

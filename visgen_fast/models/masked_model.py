"""A transformer that sees some codes and predicts the others: MaskGIT's, and Muse's.

Chang et al., "MaskGIT: masked generative image transformer", 2022, section 3.1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autoregression.order import Order
from ..nn.conditions import AnyCondition
from .layers.code_transformer import Transformer
from .layers.slot_model import SlotModel, embedding, slots_of


@dataclass
class MaskedState:
    """The codes so far, [B, length] by place and −1 for those to come, and how far they are."""

    label: Tensor | None
    codes: Tensor | None = None
    step: int = 0


class MaskedModel(SlotModel):
    """Predicts hidden codes from those that it sees: `model(codes)`, with −1 in the place of those hidden.

    A slot holds its code, or a mask, and its place and the label; it sees all slots. Step by step, in its order or in
    another (`in_order`), each code is predicted from those of earlier steps, by a pass of the whole network.

    order: in which it is asked where no other is given, of an array [*grid, Q]. size, width, depth, heads, classes,
    pooled, dropout: as of `SequenceModel`, and so the ValueErrors.
    """

    one_pass = False

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
        super().__init__(order, size, width=width, places=order.length, classes=classes, pooled=pooled)
        together = torch.zeros(order.length, dtype=torch.int64, device="cpu")
        self.transformer = Transformer(together, width=width, depth=depth, heads=heads, dropout=dropout)
        self.embed_code = embedding(size + 1, width)  # the last is the mask

    def features(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        """See `SlotModel`; codes are −1 where they are hidden."""
        return self._features(codes.flatten(1), self.embed_label(condition)).unflatten(1, self.order.shape)

    def begin(self, condition: AnyCondition = None) -> MaskedState:
        return MaskedState(self.embed_label(condition))

    def advance(self, state: MaskedState, codes: Tensor) -> Tensor:
        places, sizes = self.order.places_on(codes.device), self.order.sizes
        if state.codes is None:
            state.codes = codes.new_full((len(codes), self.order.length), -1)
        first = sum(sizes[: state.step])
        state.codes[:, places[first - codes.shape[1] : first]] = codes
        here = places[first : first + sizes[state.step]]
        state.step += 1
        return self.head(self._features(state.codes, state.label)[:, here])

    def in_order(self, order: Order) -> MaskedModel:
        """This model, its weights included, asked in another order of the same array; ValueError for another array."""
        if order.shape != self.order.shape:
            raise ValueError(f"order must be of codes {list(self.order.shape)}, got {order}")
        other = copy.copy(self)
        other.order = order
        return other

    def _features(self, codes: Tensor, label: Tensor | None) -> Tensor:
        """What the head maps to logits, [B, length, width], of codes [B, length] by place."""
        held = self.embed_code(torch.where(codes < 0, self.size, codes))
        return self.norm(self.transformer(slots_of(held, self.places, label)))

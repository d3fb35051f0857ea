"""A model of coarse codes and one of fine codes given them, as one model of all codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn.conditions import AnyCondition
from .model import CodeModel
from .order import Order


@dataclass
class CascadeState:
    """The coarse model's state, the fine one's once it is its turn, and the coarse codes so far."""

    condition: AnyCondition
    coarse: Any
    fine: Any = None
    step: int = 0
    codes: list[Tensor] = field(default_factory=list)


class Cascade(CodeModel):
    """p(coarse)·p(fine | coarse): codes [L, Q], the coarse ones before the fine ones.

    coarse: of codes [*grid, Q], which are drawn first, in its order. fine: of all codes [L, Q], whose order has the
    coarse ones first, as of `in_turn`; what it says of them plays no part. With fewer values, coarse codes have those.
    Where one of them is masked, the cascade is, and −1 hides codes from it.

    ValueError where the two don't fit together.
    """

    def __init__(self, coarse: CodeModel, fine: CodeModel) -> None:
        super().__init__()
        self.coarse, self.fine, self.size = coarse, fine, fine.size
        self.null_label, self.one_pass = fine.null_label, coarse.one_pass and fine.one_pass
        depth = coarse.order.shape[-1]
        self.places = coarse.order.length // depth
        if len(fine.order.shape) != 2 or fine.order.shape[1] != depth or fine.order.shape[0] <= self.places:
            raise ValueError(f"fine must be of codes [L, {depth}], more than the coarse ones, got {fine.order}")
        first, rest = fine.order.steps[: self.places], fine.order.steps[self.places :]
        if first.max() >= rest.min():
            raise ValueError("the order of fine must have the coarse codes before all others")
        if coarse.size > fine.size or coarse.null_label != fine.null_label:
            raise ValueError(
                f"coarse must have at most as many values, {fine.size}, and the same classes as fine, got {coarse.size}"
            )
        self.given_steps = int(rest.min())
        later = rest - self.given_steps + coarse.order.count
        self.order = Order(torch.cat((coarse.order.steps.view(-1, depth), later)))

    def forward(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        first = codes[:, : self.places].unflatten(1, self.coarse.order.shape[:-1])
        coarse = self.coarse(first.clamp_min(0) if self.coarse.one_pass else first, condition)
        fine = self.fine(codes.clamp_min(0) if self.fine.one_pass else codes, condition)[:, self.places :]
        return torch.cat((self._widened(coarse.flatten(1, -3)), fine), 1)

    def begin(self, condition: AnyCondition = None) -> CascadeState:
        return CascadeState(condition, self.coarse.begin(condition))

    def advance(self, state: CascadeState, codes: Tensor) -> Tensor:
        step, state.step = state.step, state.step + 1
        if step > self.coarse.order.count:
            return self.fine.advance(state.fine, codes)
        state.codes.append(codes)
        if step < self.coarse.order.count:
            return self._widened(self.coarse.advance(state.coarse, codes))
        return self._begin_fine(state)

    def _begin_fine(self, state: CascadeState) -> Tensor:
        """The logits of the first fine codes, once the fine model has been told all coarse ones."""
        coarse = self.coarse.order.to_array(torch.cat(state.codes, 1)).flatten(1)
        order, state.fine = self.fine.order, self.fine.begin(state.condition)
        told = coarse[:, order.places_on(coarse.device)[: coarse.shape[1]]]
        for codes in (told[:, :0], *told.split(order.sizes[: self.given_steps], 1)):
            logits = self.fine.advance(state.fine, codes)
        return logits

    def _widened(self, logits: Tensor) -> Tensor:
        """−∞ for values that coarse codes don't have."""
        return F.pad(logits, (0, self.size - self.coarse.size), value=-torch.inf)

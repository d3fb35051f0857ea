"""What a model of codes is to the sampler and to the likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ..nn.conditions import AnyCondition
from .order import Order


class CodeModel(nn.Module, ABC):
    """Predicts each code of an array [*grid, Q] from the codes of earlier steps.

    order: at which step each code is drawn. size: V, how many values a code has. null_label: the label that stands for
    "no class", or None for a model without classes. one_pass: whether calling it predicts every code from exactly the
    codes of earlier steps; a masked model predicts from what it is given, and has a stepwise likelihood alone.
    """

    order: Order
    size: int
    null_label: int | None = None
    one_pass = True

    @abstractmethod
    def forward(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        """Codes int64 [B, *grid, Q] to logits [B, *grid, Q, V], all in one pass.

        condition: labels int64 [B]; a `Condition`, for a model that reads one; None for a model that is told nothing.
        """

    @abstractmethod
    def begin(self, condition: AnyCondition = None) -> Any:
        """The state before the first step, which `advance` changes."""

    @abstractmethod
    def advance(self, state: Any, codes: Tensor) -> Tensor:
        """The logits [B, n, V] of the next step's n codes, by rising place.

        codes: int64 [B, m], those of the step before, by rising place; [B, 0] at the first.
        """

    def in_order(self, order: Order) -> CodeModel:
        """The model that draws in that order: a masked model takes any, others have one, and ValueError for another."""
        if order != self.order:
            raise ValueError(f"order must be the model's own, {self.order}, got {order}: it can't be asked in another")
        return self

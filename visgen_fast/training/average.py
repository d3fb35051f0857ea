"""The exponential moving average of the weights, which draws better images than the weights of any one step."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class MovingAverage(Generic[M]):
    """A copy of a module whose parameters follow the trained ones: average ← d·average + (1 − d)·trained.

    d is `decay`, but at most (1 + n)/(10 + n) at update n, so that the first steps are forgotten soon. Buffers
    are copied. The copy `module` stays in evaluation mode.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, trained: nn.Module, count: int) -> None:
        """Moves the average towards `trained` after optimizer step `count` (1 is the first)."""
        decay = min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(list(self.module.parameters()), list(trained.parameters()), 1 - decay)
        for average, buffer in zip(self.module.buffers(), trained.buffers(), strict=True):
            average.copy_(buffer)

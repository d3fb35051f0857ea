"""The inverse of a function that has no formula for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_HALVINGS = 64  # below the spacing of float64 numbers in all of [0, 1] but its first 2⁻¹²


def inverse(rising: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The x in [0, 1] at which a smooth rising function, elementwise, has the value; the nearer end for values beyond.

    By bisection, then a step of Newton, which makes it differentiable in the value and in what the function learns.
    """
    with torch.no_grad():
        low, high = torch.zeros_like(value), torch.ones_like(value)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            beyond = rising(middle) < value
            low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    slope = torch.func.vjp(rising, high)[1](torch.ones_like(high))[0]
    step = (value - rising(high)) / torch.where(slope > 0, slope, torch.inf)  # none where the function stands still
    return (high + step).clamp(0, 1)

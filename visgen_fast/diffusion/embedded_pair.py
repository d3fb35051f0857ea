"""An ODE solver of order 5 whose steps adapt to each sample alone: a batch shares calls of the slope, not steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Dormand and Prince, "A family of embedded Runge–Kutta formulae", 1980: where the stages lie, what each is made of (the
# last is the result of order 5), and the result less that of order 4.
_PLACES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def integrate(
    slope: Callable[[Tensor, Tensor], Tensor], state: Tensor, start: float, end: float, tolerance: float
) -> Tensor:
    """The state at `end`, above `start`, of dy/dt = slope(t [B], y [B, N]).

    A step is taken where its error is within tolerance·(1 + |y|): in the root of the mean square over the first N − 1
    numbers, and in the last one. Returns [B, N], NaN where a slope is not finite.
    """
    t = state.new_full((len(state),), start)
    width = torch.full_like(t, 1e-3 * (end - start))
    first = slope(t, state)
    while bool((t < end).any()):
        width = torch.minimum(width, end - t)
        slopes, after = [first], state
        for place, weights in zip(_PLACES, _STAGES, strict=True):
            after = state + width[:, None] * _total(weights, slopes)
            slopes.append(slope(t + place * width, after))
        wrong = width[:, None] * _total(_ERROR, slopes)
        size = _size(wrong / (tolerance * (1 + torch.maximum(state.abs(), after.abs()))))
        lost = ~size.isfinite()
        taken = (size <= 1) | lost
        state = torch.where(taken[:, None], torch.where(lost[:, None], torch.nan, after), state)
        first = torch.where(taken[:, None], slopes[-1], first)
        t = torch.where(lost | (taken & (width >= end - t)), end, torch.where(taken, t + width, t))
        width = width * (0.9 * size.clamp_min(1e-10) ** -0.2).clamp(0.2, 5.0).nan_to_num(1.0)
    return state


def _total(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    terms = [weight * one for weight, one in zip(weights, slopes, strict=True) if weight]
    return torch.stack(terms).sum(0)


def _size(wrong: Tensor) -> Tensor:
    return torch.maximum(wrong[:, :-1].square().mean(1).sqrt(), wrong[:, -1].abs())

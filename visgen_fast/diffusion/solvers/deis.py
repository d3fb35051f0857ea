"""DEIS: earlier noise, continued as a polynomial."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ... import _check as check
from ..path import Path
from .lagrange import lagrange_integrals
from .rows import SLOTS, Row, X, first_order, noise


def deis(path: Path, *, order: int = 2, lower_order_final: bool = True) -> Iterator[Row]:
    """Zhang and Chen, "Fast sampling of diffusion models with exponential integrator", 2023, in diffusers' form.

    The state divided by α grows by the integral of ε̂ over σ/α. Here ε̂ is a polynomial in ln(σ/α), as in diffusers; in
    the paper it is one in t (tAB), or in σ/α (ρAB), which `adams_bashforth` is. Order 1 to 3; the first steps have as
    many as there are, and plans of fewer than 15 steps end with lower orders, as diffusers' do.
    """
    check.integer(order, "order", 1, 3)
    steps = path.steps()
    known: list[float] = []  # ln(σ/α) of the steps before, the newest first
    for i, (start, end) in enumerate(steps):
        left = len(steps) - i if lower_order_final and len(steps) < 15 else order
        now = min(order, len(known) + 1, left)
        write = {i % (order - 1): noise(start)} if order > 1 else {}
        if now == 1 or end.sigma == 0:
            yield Row(start, first_order(start, end), write)
        else:
            low, high = math.log(start.ratio), math.log(end.ratio)
            weights = lagrange_integrals([low, *known[: now - 1]], low, high, 1.0)
            noises = [noise(start), *(SLOTS[(i - k) % (order - 1)] for k in range(1, now))]
            grown = sum(end.ratio * weight * one for weight, one in zip(weights, noises, strict=True))
            yield Row(start, end.alpha * (X / start.alpha + grown), write)
        known = [math.log(start.ratio), *known] if start.alpha > 0 else []

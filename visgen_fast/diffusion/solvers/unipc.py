"""UniPC: a predictor, and a corrector that costs no further network call.

Zhao et al., "UniPC: a unified predictor-corrector framework for fast sampling of diffusion models", 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from ... import _check as check
from ..path import Path, half_log_snr_step
from .rows import S0, SLOTS, D, Row, Sum, X


def unipc(
    path: Path, *, order: int = 2, variant: Literal["bh1", "bh2"] = "bh2", lower_order_final: bool = True
) -> Iterator[Row]:
    """Order 1 to 3 of the predictor; the corrector lifts it by one.

    Slot 0 holds what is known of the next corrected state, so that one operand is read instead of two.
    """
    check.integer(order, "order", 1, 3)
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant must be bh1 or bh2, got {variant!r}")
    steps = path.steps()
    known: list[float] = []  # ln(α/σ) of the steps before, the newest first
    corrected, weight = X, 0.0
    for i, (start, end) in enumerate(steps):
        state = corrected + weight * D
        now = min(order, len(known) + 1, len(steps) - i if lower_order_final else order)
        if end.sigma == 0:
            now = 1
        h = half_log_snr_step(start, end)
        ring = [SLOTS[1 + (i - k) % (order - 1)] for k in range(1, now)]
        ratios = [(lam - start.half_log_snr) / h for lam in known[: now - 1]]
        differences = [(m - D) / r for m, r in zip(ring, ratios, strict=True)]
        base = end.sigma / start.sigma * state + (end.alpha - start.alpha * end.sigma / start.sigma) * D
        predicted, (corrected, weight) = base, (X, 0.0)
        write = {1 + i % (order - 1): D} if order > 1 else {}
        if math.isfinite(h):
            scale, predictor, corrector = _weights(h, ratios, variant)
            predicted = base - end.alpha * scale * _total(predictor, differences)
            # The newest difference is x̂ at the end minus D: its x̂ is still to come.
            weight = -end.alpha * scale * corrector[-1]
            write[0] = base - end.alpha * scale * _total(corrector[:-1], differences) - weight * D
            corrected = S0
        yield Row(start, predicted, write)
        known = [start.half_log_snr, *known] if start.alpha > 0 else []


def _total(weights: list[float], differences: list[Sum]) -> Sum:
    return sum((weight * one for weight, one in zip(weights, differences, strict=True)), np.zeros(8))


def _weights(h: float, ratios: list[float], variant: str) -> tuple[float, list[float], list[float]]:
    """(B(h), ρ of the predictor, ρ of the corrector), equations 7 to 12."""
    order = len(ratios) + 1
    scale = -h if variant == "bh1" else math.expm1(-h)
    nodes = [*ratios, 1.0]
    matrix = np.array([[node**power for node in nodes] for power in range(order)])
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for power in range(1, order + 1):
        right.append(phi * factorial / scale)
        factorial *= power + 1
        phi = phi / -h - 1 / factorial
    corrector = [0.5] if order == 1 else list(np.linalg.solve(matrix, right))
    if order == 1:
        predictor = []
    elif order == 2:
        predictor = [0.5]
    else:
        predictor = list(np.linalg.solve(matrix[:-1, :-1], right[:-1]))
    return scale, predictor, corrector

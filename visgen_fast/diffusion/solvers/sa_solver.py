"""SA-Solver: Adams methods for the stochastic equation, with a corrector that costs no further network call."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ... import _check as check
from ..path import Level, Path, half_log_snr_step
from .dpm_multi import with_noise
from .lagrange import lagrange_integrals
from .rows import S0, SLOTS, D, Row, Sum, X, Z, check_eta


def sa_solver(
    path: Path,
    *,
    order: int = 2,
    corrector_order: int = 2,
    eta: float = 1.0,
    interval: tuple[float, float] = (0.2, 0.8),
    lower_order_final: bool = True,
) -> Iterator[Row]:
    """Xue et al., "SA-Solver: stochastic Adams solver for fast sampling of diffusion models", 2023, algorithm 1.

    η is their τ: how much noise steps add that begin in `interval`, in t (in the authors' code: that end in it); all
    others add none. The predictor reads the denoised images of `order` steps, 1 to 4; the corrector of order 1 to 4 the
    new one too. The noise of a step is in its prediction and in its correction. Slot 0 holds what is known of the next
    corrected state.
    """
    check.integer(order, "order", 1, 4)
    check.integer(corrector_order, "corrector_order", 1, 4)
    check_eta(eta)
    check.interval(interval, "interval")
    steps, ring = path.steps(), max(order - 1, corrector_order - 2)
    known: list[float] = []  # ln(α/σ) of the steps before, the newest first
    corrected, weight = X, 0.0
    for i, (start, end) in enumerate(steps):
        state = corrected + weight * D
        tau = eta if interval[0] <= start.time <= interval[1] else 0.0
        first, _ = with_noise(path, i, tau**2)
        base = first[0] * state + first[7] * Z
        write = {1 + i % ring: D} if ring else {}
        if math.isfinite(half_log_snr_step(start, end)):
            earlier = [SLOTS[1 + (i - k) % ring] for k in range(1, len(known) + 1)] if ring else []
            left = len(steps) - i if lower_order_final else len(steps)
            now = min(order, len(known) + 1, left)
            after = min(corrector_order, len(known) + 2, left + 1)
            here = start.half_log_snr
            predictor = _weights([here, *known][:now], start, end, tau)
            corrector = _weights([end.half_log_snr, here, *known][:after], start, end, tau)
            write[0] = base + _total(corrector[1:], [D, *earlier])
            yield Row(start, base + _total(predictor, [D, *earlier]), write)
            corrected, weight = S0, corrector[0]
        else:
            yield Row(start, base + first[1] * D, write)
            corrected, weight = X, 0.0
        known = [start.half_log_snr, *known][: max(ring, 1)] if start.alpha > 0 else []


def _weights(nodes: list[float], start: Level, end: Level, tau: float) -> list[float]:
    """The weights of the denoised images at the nodes, values of ln(α/σ)."""
    rate, low, high = 1 + tau**2, start.half_log_snr, end.half_log_snr
    weights = lagrange_integrals(nodes, low, high, rate)
    if len(nodes) == 2:  # as published: h²/2 is the integral over the distance from the start, of any rate
        whole, slope = -math.expm1(-rate * (high - low)) / rate, (high - low) ** 2 / 2 / (nodes[0] - nodes[1])
        weights = [slope, whole - slope] if nodes[1] == low else [whole + slope, -slope]
    return [rate * end.alpha * one for one in weights]


def _total(weights: list[float], images: list[Sum]) -> Sum:
    return sum((weight * one for weight, one in zip(weights, images, strict=False)), np.zeros(8))

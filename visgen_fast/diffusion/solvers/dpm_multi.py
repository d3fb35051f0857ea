"""DPM-Solver++ with one network call a step: earlier denoised images give the higher orders.

h is the growth of ln(α/σ) in a step; r the step before over this one. With α = 0 at the start, h is infinite and the
first step is of first order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from ..path import Path, half_log_snr_step
from .rows import S0, S1, D, Row, Sum, X, Z, check_eta, first_order


def dpmpp_2m(path: Path, *, lower_order_final: bool = True) -> Iterator[Row]:
    """Lu et al., "DPM-Solver++", 2022, algorithm 2: x̂ continued in a straight line through the last two."""
    before = math.nan
    for i, (start, end) in enumerate(path.steps()):
        h = half_log_snr_step(start, end)
        last = i + 1 == len(path.steps())
        if i == 0 or end.sigma == 0 or (last and lower_order_final and len(path.steps()) < 15):
            denoised = D
        else:
            denoised = D + (D - S0) * h / (2 * before)
        yield Row(start, first_order(start, end, denoised), {0: D})
        before = h


def dpmpp_3m(path: Path, *, variant: Literal["published", "corrected"] = "published") -> Iterator[Row]:
    """DPM-Solver++ of order 3 with three denoised images.

    "published" is the authors', diffusers' and k-diffusion's formula, whose last term lacks a factor of 2: it converges
    at order 2. The second step, with two images, is k-diffusion's; the others' second step is `dpmpp_2m`'s.
    "corrected" has it; its order is 3 from an exact history on, and 2 after a start of first order.
    """
    if variant not in ("published", "corrected"):
        raise ValueError(f"variant must be published or corrected, got {variant!r}")
    factor = 1.0 if variant == "published" else 2.0
    yield from _third_order(path, eta=0.0, factor=factor)


def dpmpp_2m_sde(path: Path, *, eta: float = 1.0, variant: Literal["midpoint", "heun"] = "midpoint") -> Iterator[Row]:
    """k-diffusion's `sample_dpmpp_2m_sde`: the same with noise, of the rates η."""
    if variant not in ("midpoint", "heun"):
        raise ValueError(f"variant must be midpoint or heun, got {variant!r}")
    check_eta(eta)
    before = math.nan
    for i, (start, end) in enumerate(path.steps()):
        h = half_log_snr_step(start, end)
        after, gain = with_noise(path, i, eta)
        if i > 0 and end.sigma > 0:
            weight = 0.5 * gain if variant == "midpoint" else 1 - gain / (h * (1 + eta))
            after = after + end.alpha * weight * (h / before) * (D - S0)
        yield Row(start, after, {0: D})
        before = h


def dpmpp_3m_sde(path: Path, *, eta: float = 1.0) -> Iterator[Row]:
    """k-diffusion's `sample_dpmpp_3m_sde`."""
    check_eta(eta)
    yield from _third_order(path, eta=eta, factor=1.0)


def with_noise(path: Path, i: int, eta: float) -> tuple[Sum, float]:
    """Step i of first order with noise of rate η, and 1 − exp(−h(1 + η)), the weight of x̂ in it."""
    start, end = path.steps()[i]
    h = half_log_snr_step(start, end)
    if end.sigma == 0:
        return end.alpha * D, 1.0
    gain = -math.expm1(-h * (1 + eta)) if math.isfinite(h) else 1.0
    # Of an inversion, whose h is negative, a complex number: the plan refuses it.
    fresh = (-math.expm1(-2 * eta * h)) ** 0.5 if math.isfinite(h) else float(eta > 0)
    kept = end.sigma / start.sigma * math.exp(-eta * h) if math.isfinite(h) or eta > 0 else end.sigma / start.sigma
    return kept * X + end.alpha * gain * D + end.sigma * fresh * Z, gain


def _third_order(path: Path, *, eta: float, factor: float) -> Iterator[Row]:
    steps: list[float] = []
    for i, (start, end) in enumerate(path.steps()):
        h = half_log_snr_step(start, end)
        after, _ = with_noise(path, i, eta)
        newer, older = (S0, S1) if i % 2 else (S1, S0)
        if i > 0 and end.sigma > 0:
            slope, curve = _differences(h, steps, newer, older)
            rate = h * (1 + eta)
            phi_2 = _phi_2(rate)
            after = after + end.alpha * phi_2 * slope
            if curve is not None:
                after = after - end.alpha * factor * _phi_3(rate) * curve
        yield Row(start, after, {i % 2: D})
        steps = [h, *steps][:2]


def _differences(h: float, steps: list[float], newer: Sum, older: Sum) -> tuple[Sum, Sum | None]:
    """The first and second divided differences of x̂ in ln(α/σ), times h and h²."""
    r0 = steps[0] / h
    first = (D - newer) / r0
    if len(steps) < 2:
        return first, None
    r1 = steps[1] / h
    second = (newer - older) / r1
    curve = (first - second) / (r0 + r1)
    return first + r0 * curve, curve


def _phi_2(rate: float) -> float:
    """(e^−rate − 1)/rate + 1."""
    return math.expm1(-rate) / rate + 1 if abs(rate) > 1e-3 else rate / 2 - rate**2 / 6 + rate**3 / 24


def _phi_3(rate: float) -> float:
    """((e^−rate − 1)/rate + 1)/rate − ½."""
    return _phi_2(rate) / rate - 0.5 if abs(rate) > 1e-2 else -rate / 6 + rate**2 / 24 - rate**3 / 120 + rate**4 / 720

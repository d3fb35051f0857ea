"""DPM-Solver++ with two network calls a step, with and without noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ... import _check as check
from ..path import Level, Path
from .rows import S0, D, Row, Sum, X, Z, ancestral, check_eta, first_order


def dpmpp_2s(path: Path, *, eta: float = 0.0) -> Iterator[Row]:
    """Lu et al., "DPM-Solver++", 2022, algorithm 1 of order 2; with η > 0 k-diffusion's `sample_dpmpp_2s_ancestral`.

    The second call is in the middle of the step in ln(σ/α); only its denoised image is used.
    """
    check_eta(eta)
    for start, end in path.steps():
        down, up = ancestral(start, end, eta)
        if start.alpha == 0 or down == 0:
            yield Row(start, first_order(start, end) if up == 0 else descended(start, down, up, end))
            continue
        middle = path.at_ratio(math.sqrt(start.ratio * down))
        yield Row(start, first_order(start, middle), {0: down / start.ratio * X / start.alpha}, ends=False)
        yield Row(middle, end.alpha * (S0 + (1 - down / start.ratio) * D + up * Z))


def dpmpp_sde(path: Path, *, eta: float = 1.0, fraction: float = 0.5) -> Iterator[Row]:
    """k-diffusion's `sample_dpmpp_sde`: noise at the middle as at the end, and both denoised images used."""
    check_eta(eta)
    check.number(fraction, "fraction")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    weight = 1 / (2 * fraction)
    for start, end in path.steps():
        if start.alpha == 0 or end.sigma == 0:
            yield Row(start, first_order(start, end))
            continue
        middle = path.between(start, end, fraction)
        to_middle, to_end = ancestral(start, middle, eta), ancestral(start, end, eta)
        keep = to_end[0] / start.ratio
        known = keep * X / start.alpha + (1 - keep) * (1 - weight) * D
        yield Row(start, descended(start, *to_middle, middle), {0: known}, ends=False)
        yield Row(middle, end.alpha * (S0 + (1 - keep) * weight * D + to_end[1] * Z))


def descended(start: Level, down: float, up: float, to: Level) -> Sum:
    """First order down to the ratio σ/α of `down`, and noise of `up`, as the state at `to`."""
    noise = (X - start.alpha * D) / start.sigma
    return to.alpha * (D + down * noise + up * Z)

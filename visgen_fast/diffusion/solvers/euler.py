"""Euler's method, DDIM, and Euler's method with noise: the samplers of first order."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ... import _check as check
from ..path import Level, Path
from .rows import D, Row, Sum, Z, ancestral, check_eta, first_order, noise


def euler(
    path: Path,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Iterator[Row]:
    """Karras et al., "Elucidating the design space of diffusion-based generative models", 2022, algorithm 2, Euler."""
    check.real(churn_noise, "churn_noise", 0)
    starts = churned(path, churn, churn_min, churn_max)
    for i, (start, (_, end)) in enumerate(zip(starts, path.steps(), strict=True)):
        after = first_order(start, end)
        if i + 1 < len(starts):
            after = raised(after, end, starts[i + 1], churn_noise)
        yield Row(start, after)


def ddim(path: Path, *, eta: float = 0.0) -> Iterator[Row]:
    """Song et al., "Denoising diffusion implicit models", 2021, equation 12, on any path; η = 1 is DDPM's small one."""
    check_eta(eta, 1)
    for start, end in path.steps():
        if eta == 0:
            yield Row(start, first_order(start, end))
            continue
        fresh = eta**2 * end.sigma**2 * (1 - snr_ratio(start, end))
        kept = max(end.sigma**2 - fresh, 0.0) ** 0.5
        yield Row(start, end.alpha * D + kept * noise(start) + fresh**0.5 * Z)


def euler_ancestral(path: Path, *, eta: float = 1.0) -> Iterator[Row]:
    """k-diffusion's `sample_euler_ancestral`: a step down in σ/α, and noise up to the next level."""
    check_eta(eta)
    for start, end in path.steps():
        down, up = ancestral(start, end, eta)
        if up == 0:
            yield Row(start, first_order(start, end))
        else:
            yield Row(start, end.alpha * (D + down * noise(start) + up * Z))


def snr_ratio(start: Level, end: Level) -> float:
    """SNR(start)/SNR(end), in [0, 1] on the way to the data."""
    return (start.alpha * end.sigma / (end.alpha * start.sigma)) ** 2


def churned(path: Path, churn: float, churn_min: float, churn_max: float) -> list[Level]:
    """Where each step begins after its churn: σ/α grown by γ = min(churn/steps, √2 − 1) inside the bounds."""
    check.real(churn, "churn", 0)
    check.number(churn_min, "churn_min")
    check.number(churn_max, "churn_max")
    gamma = min(churn / len(path.steps()), math.sqrt(2) - 1)
    return [
        path.at_ratio(start.ratio * (1 + gamma))
        if gamma > 0 and churn_min <= start.ratio <= churn_max and 0 < start.ratio < math.inf
        else start
        for start, _ in path.steps()
    ]


def raised(state: Sum, at: Level, to: Level, scale: float) -> Sum:
    """The state at `at` with noise added up to the level `to`, which is higher or the same."""
    if to == at:
        return state
    fresh = (to.ratio**2 - at.ratio**2) ** 0.5
    return to.alpha / at.alpha * state + to.alpha * fresh * scale * Z

"""At which times a sampler's steps begin and end: from noise, the first, to data, the last; `SPACINGS` by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .. import _check as check
from .schedules import Schedule

Spacing = Callable[[Schedule, int], Tensor]

TRAIN_STEPS = 1000
"""The discrete steps that "linear" and "leading" of published samplers count in."""


def trailing(schedule: Schedule, steps: int) -> Tensor:
    """1, 1 − 1/steps, …, 0 (Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023)."""
    return torch.arange(steps, -1, -1, dtype=torch.float64) / steps


def leading(schedule: Schedule, steps: int) -> Tensor:
    """The discrete times i·(T // steps) + 1 of DDIM (Song et al., 2021), which leave out the end of the noise.

    ValueError for 1000 steps or more, which they have no room for.
    """
    if steps >= TRAIN_STEPS:
        raise ValueError(f"steps must be below {TRAIN_STEPS} with the spacing leading, got {steps}")
    entries = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (TRAIN_STEPS // steps) + 1
    return torch.cat([(entries + 1) / TRAIN_STEPS, torch.zeros(1, dtype=torch.float64)])


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """Times whose square roots are evenly spaced (Song et al., 2021, appendix D.2)."""
    return trailing(schedule, steps) ** 2


def karras(schedule: Schedule, steps: int, *, rho: float = 7.0) -> Tensor:
    """σ/α evenly spaced in its power 1/ρ, then 0 (Karras et al., 2022, equation 5)."""
    high, low = _ratios(schedule)
    shares = torch.linspace(0, 1, steps, dtype=torch.float64)
    ratios = (high ** (1 / rho) + shares * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _times(schedule, ratios)


def exponential(schedule: Schedule, steps: int) -> Tensor:
    """σ/α evenly spaced in its logarithm, then 0."""
    high, low = _ratios(schedule)
    return _times(schedule, torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp())


def beta(schedule: Schedule, steps: int, *, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Quantiles of a beta distribution: dense at both ends (Lee et al., "Beta sampling is all you need", 2024)."""
    from scipy.stats import beta as distribution

    shares = 1 - np.arange(steps) / steps
    times = np.append(distribution.ppf(shares, alpha, beta), 0.0)
    return torch.from_numpy(times)


def shifted(times: Tensor, shift: float) -> Tensor:
    """t' = s·t/(1 + (s − 1)·t) (Esser et al., "Stable Diffusion 3", 2024, equation 23). ValueError unless s > 0."""
    check.number(shift, "shift")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift must be positive, got {shift}")
    return shift * times / (1 + (shift - 1) * times)


def _ratios(schedule: Schedule) -> tuple[float, float]:
    """The largest and smallest σ/α in use: at the ends of the schedule, or just inside where they are no numbers."""
    inside = torch.tensor([1.0, 1 - 1 / TRAIN_STEPS, 1 / TRAIN_STEPS], dtype=torch.float64)
    first, second, last = (schedule.sigma(inside) / schedule.alpha(inside)).tolist()
    return (first if math.isfinite(first) and first < 1e6 else second), last


def _times(schedule: Schedule, ratios: Tensor) -> Tensor:
    return torch.cat([schedule.time(-2 * ratios.log()), torch.zeros(1, dtype=torch.float64)])


SPACINGS: dict[str, Spacing] = {
    "linear": trailing,
    "trailing": trailing,
    "leading": leading,
    "karras": karras,
    "exponential": exponential,
    "quadratic": quadratic,
    "beta": beta,
}

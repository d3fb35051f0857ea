"""The way that a sampler goes: noise levels as numbers, at the times of its steps and between them.

Everything here is float64 on the host: a sampler's formulas are evaluated once, before any image is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedules import Schedule


@dataclass(frozen=True)
class Level:
    """A noise level: x_t = alpha·x + sigma·ε at `time`."""

    time: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """σ/α, the noise level of the state divided by α (VE): infinite where nothing of the image is left."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def half_log_snr(self) -> float:
        """ln(α/σ), the variable of the exponential integrators: ±infinity at the ends."""
        if self.alpha == 0:
            return -math.inf
        return math.log(self.alpha / self.sigma) if self.sigma > 0 else math.inf


@dataclass(frozen=True)
class Path:
    """The levels of a sampler's steps, the first one first; step i goes from levels[i] to levels[i + 1]."""

    schedule: Schedule
    levels: tuple[Level, ...]

    @classmethod
    def through(cls, schedule: Schedule, times: Tensor) -> Path:
        """The path through `times`, float64 [steps + 1]."""
        levels = zip(times.tolist(), schedule.alpha(times).tolist(), schedule.sigma(times).tolist(), strict=True)
        return cls(schedule, tuple(Level(*level) for level in levels))

    def steps(self) -> list[tuple[Level, Level]]:
        """Each step's two levels."""
        return list(zip(self.levels, self.levels[1:], strict=False))

    def at_time(self, time: float) -> Level:
        """The level at this time."""
        t = torch.tensor(time, dtype=torch.float64)
        return Level(time, self.schedule.alpha(t).item(), self.schedule.sigma(t).item())

    def at_ratio(self, ratio: float) -> Level:
        """The level at which σ/α is `ratio`, a positive number."""
        time = self.schedule.time(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
        return Level(time.item(), self.schedule.alpha(time).item(), self.schedule.sigma(time).item())

    def between(self, start: Level, end: Level, fraction: float = 0.5) -> Level:
        """The level this fraction of the way from `start` to `end` in ln(σ/α)."""
        log_ratio = (1 - fraction) * math.log(start.ratio) + fraction * math.log(end.ratio)
        return self.at_ratio(math.exp(log_ratio))


def half_log_snr_step(start: Level, end: Level) -> float:
    """h, the growth of ln(α/σ) from `start` to `end`."""
    return end.half_log_snr - start.half_log_snr

"""Noise schedules: how much signal α(t) and how much noise σ(t) the noised image x_t = α·x + σ·ε holds.

Time t runs from 0 (data) to 1 (noise); λ = ln(α²/σ²) is the log signal-to-noise ratio and falls with t. Everything is
differentiable in t and elementwise on float32 or float64 tensors of any shape, so that a noise level may belong to a
image, a frame or a token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

# The smallest normal float32: an α or σ of exactly 0 counts as this much where its logarithm is asked for.
_SMALLEST = torch.finfo(torch.float32).tiny


class Schedule(ABC):
    """A path from data to noise. A schedule of one's own gives `alpha`, `sigma` and `time`."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The share of the image in x_t, at times t in [0, 1]."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise in x_t, at times t in [0, 1]."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The time at which the log signal-to-noise ratio has the value given: the inverse of `log_snr`."""

    def log_snr(self, t: Tensor) -> Tensor:
        """λ = ln(α²/σ²) at times t in [0, 1], always finite: it stops at ±175 where α or σ reaches 0."""
        return 2 * (self.alpha(t).clamp_min(_SMALLEST).log() - self.sigma(t).clamp_min(_SMALLEST).log())

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether nothing of the image is left at t = 1, so that ε at that time says nothing about it."""
        return bool(self.alpha(torch.ones((), dtype=torch.float64)) == 0)


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """The straight path α = 1 − t, σ = t (Liu et al., "Flow straight and fast", 2022; Lipman et al., 2022)."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def time(self, log_snr: Tensor) -> Tensor:
        """1/(1 + e^{λ/2}), for every real λ."""
        return torch.sigmoid(-log_snr / 2)


@dataclass(frozen=True)
class CosineVP(Schedule):
    """The continuous cosine schedule, α² + σ² = 1: the angle of (α, σ) grows linearly in t.

    λ(t) = −2 ln tan(a + t(b − a)) falls from `log_snr_max` at t = 0 to `log_snr_min` at t = 1 (Nichol and Dhariwal,
    2021, in the form of Salimans and Ho, "Progressive distillation", 2022).

    ValueError unless log_snr_min < log_snr_max.
    """

    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(
                f"log_snr_min must be smaller than log_snr_max, got {self.log_snr_min} and {self.log_snr_max}"
            )

    # α and σ are both sines of angles measured from their own zero: cos(π/2 − small) would lose α's last digits.

    def alpha(self, t: Tensor) -> Tensor:
        """The sine of the angle that is left to pure noise, in (0, 1)."""
        return torch.sin(_angle(self.log_snr_min) + (1 - t) * self._span)

    def sigma(self, t: Tensor) -> Tensor:
        """The sine of the angle from pure data, in (0, 1)."""
        return torch.sin(_angle(-self.log_snr_max) + t * self._span)

    def time(self, log_snr: Tensor) -> Tensor:
        """(atan(e^{−λ/2}) − a)/(b − a), for λ in [log_snr_min, log_snr_max]."""
        return (torch.atan(torch.exp(-log_snr / 2)) - _angle(-self.log_snr_max)) / self._span

    @property
    def _span(self) -> float:
        return _angle(-self.log_snr_min) - _angle(-self.log_snr_max)


def _angle(log_ratio: float) -> float:
    """The angle whose squared tangent has this logarithm, in radians."""
    return math.atan(math.exp(log_ratio / 2))

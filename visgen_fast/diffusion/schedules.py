"""Noise schedules: how much signal α(t) and how much noise σ(t) the noised image x_t = α·x + σ·ε holds.

Time t runs from 0 (data) to 1 (noise); λ = ln(α²/σ²) is the log signal-to-noise ratio and falls with t. Everything is
differentiable in t and elementwise on float32 or float64 tensors of any shape, so that a noise level may belong to an
image, a frame or a token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _check as check

# The smallest normal float32: an α or σ of exactly 0 counts as this much where its logarithm is asked for.
SMALLEST = torch.finfo(torch.float32).tiny
_MOST_RHO, _MOST_LOG_ROOT = 1000, 80.0  # of KarrasVE: what float32 holds of σ^{1/ρ}, with four digits left of σ


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
        return 2 * (self.alpha(t).clamp_min(SMALLEST).log() - self.sigma(t).clamp_min(SMALLEST).log())

    def slope(self, t: Tensor) -> Tensor:
        """dλ/dt at times t in [0, 1], negative and finite: its value next to an end where it is infinite."""
        return torch.func.vjp(self.log_snr, inside(t))[1](torch.ones_like(t))[0]

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ) at a log signal-to-noise ratio."""
        t = self.time(log_snr).clamp(0, 1)
        return self.alpha(t), self.sigma(t)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether nothing of the image is left at t = 1, so that ε at that time says nothing about it."""
        return bool(self.alpha(torch.ones((), dtype=torch.float64, device="cpu")) == 0)


def inside(t: Tensor) -> Tensor:
    """Times t, or next to an end of [0, 1]."""
    return t.clamp(1e-12, 1 - torch.finfo(t.dtype).eps / 2)


def check_schedule(schedule: object) -> None:
    """ValueError unless it is one."""
    check.instance(schedule, "schedule", Schedule, "CosineVP()")


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

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ) with α + σ = 1, for every real λ."""
        return torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)


class VariancePreserving(Schedule):
    """A schedule with α² + σ² = 1, given by its λ: one of one's own gives `log_snr` and `time`."""

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ), the roots of sigmoid(λ) and sigmoid(−λ), for every real λ; none is below e⁻⁴⁰."""
        log_snr = log_snr.clamp(-80, 80)  # a root has no derivative at 0
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        """The root of sigmoid(λ)."""
        return self.levels(self.log_snr(t))[0]

    def sigma(self, t: Tensor) -> Tensor:
        """The root of sigmoid(−λ)."""
        return self.levels(self.log_snr(t))[1]

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """λ at times t in [0, 1], always finite."""


@dataclass(frozen=True)
class CosineVP(VariancePreserving):
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
        return torch.sin(angle(self.log_snr_min) + (1 - t) * self._span)

    def sigma(self, t: Tensor) -> Tensor:
        """The sine of the angle from pure data, in (0, 1)."""
        return torch.sin(angle(-self.log_snr_max) + t * self._span)

    def log_snr(self, t: Tensor) -> Tensor:
        """−2 ln tan of the angle from pure data."""
        return Schedule.log_snr(self, t)

    def time(self, log_snr: Tensor) -> Tensor:
        """(atan(e^{−λ/2}) − a)/(b − a), for λ in [log_snr_min, log_snr_max]."""
        if self.log_snr_max < 0:
            return 1 - (torch.atan(torch.exp(log_snr / 2)) - angle(self.log_snr_min)) / self._span
        return (torch.atan(torch.exp(-log_snr / 2)) - angle(-self.log_snr_max)) / self._span

    @property
    def _span(self) -> float:
        if self.log_snr_max < 0:  # from pure noise, where both angles are small: near π/2 they would be equal
            return angle(self.log_snr_max) - angle(self.log_snr_min)
        return angle(-self.log_snr_min) - angle(-self.log_snr_max)


def angle(log_ratio: float) -> float:
    """The angle whose squared tangent has this logarithm, in radians; π/2 where the tangent is no number any more."""
    return math.atan(math.exp(min(log_ratio / 2, 700.0)))


@dataclass(frozen=True)
class SigmoidVP(VariancePreserving):
    """α² falls as a piece of the sigmoid, from `start` to `end`, does; higher temperatures make it straighter.

    α² = (S(end/τ) − S((t·(end − start) + start)/τ))/(S(end/τ) − S(start/τ)) with S the logistic function, brought into
    [floor, 1 − floor] (Chen, "On the importance of noise scheduling for diffusion models", 2023, section 2.2, which
    cuts it at 1e-9). The "sigmoid" of diffusers is another schedule: `DiscreteVP.sigmoid`.

    ValueError unless start < end, temperature > 0, with start and end within ±30 times it, and 0 < floor < ½.
    """

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0
    floor: float = 1e-9

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"start must be smaller than end, got {self.start} and {self.end}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if not max(-self.start, self.end) / self.temperature <= 30:
            raise ValueError(f"temperature must leave start and end within ±30 times itself, got {self.temperature}")
        if not 0 < self.floor < 0.5:
            raise ValueError(f"floor must lie in (0, 0.5), got {self.floor}")

    # Differences of sigmoids as products, S(a) − S(b) = −S(a)·S(−b)·(e^{b − a} − 1), keep all digits at both ends.

    def alpha(self, t: Tensor) -> Tensor:
        """The root of the piece."""
        return self._squares(t)[0].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """The root of what is missing to 1."""
        return self._squares(t)[1].sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(α²/σ²)."""
        signal, noise = self._squares(t)
        return signal.log() - noise.log()

    def _squares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α², σ²)."""
        first, last, span = self._ends()
        here = first + t * (last - first)
        signal = -_sigmoid(last) * torch.sigmoid(-here) * torch.expm1((t - 1) * (last - first)) / span
        noise = -torch.sigmoid(here) * _sigmoid(-first) * torch.expm1(-t * (last - first)) / span
        return self.floor + (1 - 2 * self.floor) * signal, self.floor + (1 - 2 * self.floor) * noise

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse, from the end that is nearer; the nearer end for λ beyond both."""
        first, last, span = self._ends()
        most = -math.log(self.floor) + math.log1p(-self.floor)
        log_snr = log_snr.clamp(-most, most)
        signal, noise = ((torch.sigmoid(x) - self.floor) / (1 - 2 * self.floor) * span for x in (log_snr, -log_snr))
        up = torch.log1p(noise / _sigmoid(first)) - torch.log1p(-noise / _sigmoid(-first))
        down = torch.log1p(signal / _sigmoid(-last)) - torch.log1p(-signal / _sigmoid(last))
        return torch.where(log_snr > 0, up / (last - first), 1 - down / (last - first))

    def _ends(self) -> tuple[float, float, float]:
        first, last = self.start / self.temperature, self.end / self.temperature
        return first, last, -_sigmoid(last) * _sigmoid(-first) * math.expm1(first - last)


@dataclass(frozen=True)
class KarrasVE(Schedule):
    """α = 1; σ grows from `sigma_min` to `sigma_max` evenly in its power 1/ρ.

    Karras et al., "Elucidating the design space of diffusion-based generative models" (EDM), 2022, equation 5.
    ValueError unless 0 < sigma_min < sigma_max, finite, and rho lies where float32 holds the roots and tells them
    apart: up to 1000, and from 0.132 on between the sigmas of EDM.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min must be positive and smaller than sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        if math.isinf(self.rho):
            raise ValueError(f"rho must be finite, got {self.rho}")
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        least = max(abs(low), abs(high), high - low) / _MOST_LOG_ROOT
        if not least <= self.rho <= _MOST_RHO:
            raise ValueError(f"rho must lie in [{least:.3g}, {_MOST_RHO}] between these sigmas, got {self.rho}")

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return 1 + 0 * t  # with a derivative, for what follows the path

    def sigma(self, t: Tensor) -> Tensor:
        """(σ_min^{1/ρ} + t·(σ_max^{1/ρ} − σ_min^{1/ρ}))^ρ."""
        low, high = self._roots()
        return (low + t * (high - low)) ** self.rho

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse, for every real λ = −2 ln σ."""
        low, high = self._roots()
        return (torch.exp(-log_snr / (2 * self.rho)) - low) / (high - low)

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(1, e^{−λ/2}), for every real λ."""
        return torch.ones_like(log_snr), torch.exp(-log_snr / 2)

    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))

"""Densities of λ = ln(α²/σ²): where a schedule or a time sampling puts its noise levels.

Everything is elementwise and differentiable on float32 or float64 tensors of any shape.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _check as check


class Density(ABC):
    """A density on the real line that is symmetric about `mean`.

    A density of one's own gives `mean`, `pdf`, and `cdf` and `quantile` of its lower half; both tails are exact then.
    """

    mean: float

    @abstractmethod
    def pdf(self, log_snr: Tensor) -> Tensor:
        """The density at λ."""

    @abstractmethod
    def lower_cdf(self, log_snr: Tensor) -> Tensor:
        """The share below λ, for λ up to `mean`."""

    @abstractmethod
    def lower_quantile(self, share: Tensor) -> Tensor:
        """The λ below which this share lies, for shares in (0, ½]."""

    def cdf(self, log_snr: Tensor) -> Tensor:
        """The share below λ."""
        tail = self.lower_cdf(self.mean - (log_snr - self.mean).abs())
        return torch.where(log_snr <= self.mean, tail, 1 - tail)

    def survival(self, log_snr: Tensor) -> Tensor:
        """The share above λ: 1 − `cdf`, without its rounding."""
        return self.cdf(2 * self.mean - log_snr)

    def quantile(self, share: Tensor) -> Tensor:
        """The λ below which this share lies, in (0, 1); infinite at 0 and 1."""
        tail = self.lower_quantile(torch.where(share <= 0.5, share, 1 - share))
        return torch.where(share <= 0.5, tail, 2 * self.mean - tail)


def check_density(density: object, name: str) -> None:
    """ValueError unless it is one."""
    check.instance(density, name, Density, "Normal()")


def _check_width(density: Density, name: str) -> None:
    width = getattr(density, name)
    if not 0 < width < math.inf or not math.isfinite(density.mean):
        raise ValueError(
            f"{name} must be positive and finite, and mean finite, got {name} {width} and mean {density.mean}"
        )


@dataclass(frozen=True)
class Normal(Density):
    """λ ~ N(mean, std²). EDM's ln σ ~ N(m, s²) is N(−2m, (2s)²) in λ. ValueError unless std > 0."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_width(self, "std")

    def pdf(self, log_snr: Tensor) -> Tensor:
        """The density at λ."""
        return torch.exp(-0.5 * ((log_snr - self.mean) / self.std) ** 2) / (self.std * math.sqrt(2 * math.pi))

    def lower_cdf(self, log_snr: Tensor) -> Tensor:
        """The share below λ, for λ up to `mean`."""
        return torch.special.erfc((self.mean - log_snr) / (self.std * math.sqrt(2))) / 2  # `ndtr` has no digits left

    def lower_quantile(self, share: Tensor) -> Tensor:
        """The λ below which this share lies, for shares in (0, ½]."""
        return self.mean + self.std * torch.special.ndtri(share)


@dataclass(frozen=True)
class Laplace(Density):
    """p(λ) = e^{−|λ − mean|/scale}/(2·scale).

    Hang et al., "Improved noise schedule for diffusion training", 2024, section 3.2. ValueError unless scale > 0.
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        _check_width(self, "scale")

    def pdf(self, log_snr: Tensor) -> Tensor:
        """The density at λ."""
        return torch.exp(-(log_snr - self.mean).abs() / self.scale) / (2 * self.scale)

    def lower_cdf(self, log_snr: Tensor) -> Tensor:
        """The share below λ, for λ up to `mean`."""
        return torch.exp((log_snr - self.mean) / self.scale) / 2

    def lower_quantile(self, share: Tensor) -> Tensor:
        """The λ below which this share lies, for shares in (0, ½]."""
        return self.mean + self.scale * torch.log(2 * share)


@dataclass(frozen=True)
class Cauchy(Density):
    """p(λ) = scale/(π·((λ − mean)² + scale²)), where `mean` is the median: there is no mean.

    Hang et al., "Improved noise schedule for diffusion training", 2024, table 1. ValueError unless scale > 0.
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_width(self, "scale")

    def pdf(self, log_snr: Tensor) -> Tensor:
        """The density at λ."""
        return self.scale / (math.pi * ((log_snr - self.mean) ** 2 + self.scale**2))

    def lower_cdf(self, log_snr: Tensor) -> Tensor:
        """The share below λ, for λ up to `mean`."""
        return torch.atan2(torch.full_like(log_snr, self.scale), self.mean - log_snr) / math.pi

    def lower_quantile(self, share: Tensor) -> Tensor:
        """The λ below which this share lies, for shares in (0, ½]."""
        return self.mean - self.scale / torch.tan(math.pi * share)


@dataclass(frozen=True)
class HyperbolicSecant(Density):
    """p(λ) = sech((λ − mean)/(2·scale))/(2π·scale): with scale 1, what the cosine schedule gives under uniform times.

    Another mean shifts that schedule, another scale stretches it. Kingma and Gao, "Understanding diffusion objectives
    as the ELBO", 2023, table 1. ValueError unless scale > 0.
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_width(self, "scale")

    def pdf(self, log_snr: Tensor) -> Tensor:
        """The density at λ."""
        half = torch.exp(-(log_snr - self.mean).abs() / (2 * self.scale))
        return half / (1 + half**2) / (math.pi * self.scale)

    def lower_cdf(self, log_snr: Tensor) -> Tensor:
        """The share below λ, for λ up to `mean`."""
        return 2 / math.pi * torch.atan(torch.exp((log_snr - self.mean) / (2 * self.scale)))

    def lower_quantile(self, share: Tensor) -> Tensor:
        """The λ below which this share lies, for shares in (0, ½]."""
        return self.mean + 2 * self.scale * torch.log(torch.tan(math.pi / 2 * share))

"""How much each noise level counts: what multiplies ‖ε − ε̂‖² at λ = ln(α²/σ²).

One number serves every prediction, for the errors of a network's output read as x, ε or v are proportional: what is
published for x is divided by the signal-to-noise ratio here, what is published for v by α² (where α² + σ² = 1). A
weight that `divides` is divided by p(λ), the density of the levels drawn: then w(λ) is the weight itself, whatever
schedule and times are (Kingma and Gao, "Understanding diffusion objectives as the ELBO with simple data augmentation",
2023, equation 6). The others leave w(λ) = p(λ)·weight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _check as check


class Weight(ABC):
    """A weight. One of one's own gives `log`, elementwise."""

    divides = False

    @abstractmethod
    def log(self, log_snr: Tensor) -> Tensor:
        """ln of what multiplies ‖ε − ε̂‖² at λ."""

    def offset(self, log_snr: Tensor) -> Tensor | None:
        """What is added to the loss at λ; None for nothing."""
        return None


def check_weight(weight: object) -> None:
    """ValueError unless it is one."""
    check.instance(weight, "weight", Weight, "MinSNR()")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True)
class MinSNR(Weight):
    """min(SNR, γ) on x, min(1, γ/SNR) on ε, min(SNR, γ)/(SNR + 1) on v (where α² + σ² = 1).

    Hang et al., "Efficient diffusion training via Min-SNR weighting strategy", 2023, section 3.4. Their code gives v
    the weight 1 where SNR = 0; here it is 0, the limit. ValueError unless gamma > 0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def log(self, log_snr: Tensor) -> Tensor:
        """min(0, ln γ − λ)."""
        return (math.log(self.gamma) - log_snr).clamp_max(0)


@dataclass(frozen=True)
class SoftMinSNR(Weight):
    """γ·SNR/(SNR + γ) on x, γ/(SNR + γ) on ε: `MinSNR` without the corner, and `Sigmoid(ln γ)` without its 1/p(λ).

    Crowson et al., "Scalable high-resolution pixel-space image synthesis with hourglass diffusion transformers", 2024,
    section 3.3: with γ = 1/σ_d², 1 over σ² + σ_d² on x. ValueError unless gamma > 0.
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def log(self, log_snr: Tensor) -> Tensor:
        """ln sigmoid(ln γ − λ)."""
        return F.logsigmoid(math.log(self.gamma) - log_snr)


@dataclass(frozen=True)
class P2(Weight):
    """1/(k + SNR)^γ on ε (Choi et al., "Perception prioritized training of diffusion models", 2022, equation 8).

    ValueError unless k > 0 and gamma > 0.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("k", self.k)
        _check_positive("gamma", self.gamma)

    def log(self, log_snr: Tensor) -> Tensor:
        """−γ·ln(k + e^λ)."""
        return -self.gamma * (math.log(self.k) + F.softplus(log_snr - math.log(self.k)))


@dataclass(frozen=True)
class TruncatedSNR(Weight):
    """max(SNR, 1) on x, max(1, 1/SNR) on ε (Salimans and Ho, "Progressive distillation", 2022, section 4)."""

    def log(self, log_snr: Tensor) -> Tensor:
        """max(0, −λ)."""
        return (-log_snr).clamp_min(0)


@dataclass(frozen=True)
class EDMWeight(Weight):
    """(σ² + s²)/(σ·s)² on x, with σ = e^{−λ/2}: 1 on the output of `edm(s)` (Karras et al., 2022, table 1).

    ValueError unless data_std, s, is positive.
    """

    data_std: float = 0.5

    def __post_init__(self) -> None:
        _check_positive("data_std", self.data_std)

    def log(self, log_snr: Tensor) -> Tensor:
        """ln(1 + e^{−λ}/s²)."""
        return F.softplus(-log_snr - 2 * math.log(self.data_std))


@dataclass(frozen=True)
class Sigmoid(Weight):
    """sigmoid(bias − λ) on ε, over p(λ): levels count up to λ = bias, and fade above it.

    Kingma and Gao, 2023, section 5 (bias 2); Hoogeboom et al., "Simpler diffusion" (SiD2), 2024, section 3.1, where it
    falls with the resolution. ValueError unless bias is finite.
    """

    bias: float = 2.0
    divides = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be finite, got {self.bias}")

    def log(self, log_snr: Tensor) -> Tensor:
        """ln sigmoid(bias − λ)."""
        return F.logsigmoid(self.bias - log_snr)


@dataclass(frozen=True)
class ELBO(Weight):
    """1 on ε, over p(λ): the variational bound of the data's likelihood.

    Twice the terms of Kingma et al., "Variational diffusion models", 2021, equation 18. Reconstruction and what is left
    at the end are missing: they depend on the schedule's ends alone.
    """

    divides = True

    def log(self, log_snr: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(log_snr)


@dataclass(frozen=True)
class EDMMonotonic(Weight):
    """The w(λ) of EDM's times and weight, but held at its maximum for all λ below it; over p(λ).

    w = N(λ; −2·mean, (2·std)²)·(e^{−λ} + s²), scaled to 1 at its maximum. Kingma and Gao, 2023, section 5, table 1.
    mean, std: of ln σ; data_std: s. ValueError unless std and data_std are positive, all finite.
    """

    mean: float = -1.2
    std: float = 1.2
    data_std: float = 0.5
    divides = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean must be finite, got {self.mean}")
        _check_positive("std", self.std)
        _check_positive("data_std", self.data_std)
        grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64) * self.std - 2 * self.mean
        values = self._of_edm(grid)
        object.__setattr__(self, "_peak", (grid[values.argmax()].item(), values.max().item()))

    def log(self, log_snr: Tensor) -> Tensor:
        """ln w(max(λ, where it is largest)), less the largest."""
        place, largest = self._peak  # type: ignore[attr-defined]
        return (self._of_edm(log_snr.clamp_min(place)) - largest).clamp_max(0)

    def _of_edm(self, log_snr: Tensor) -> Tensor:
        inside = -0.5 * ((log_snr + 2 * self.mean) / (2 * self.std)) ** 2
        return inside + F.softplus(-log_snr - 2 * math.log(self.data_std))

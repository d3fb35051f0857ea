"""At which times a model is trained: densities of t on [0, 1].

A time is a function of its sample's seed alone, whatever the batch or the rank it is drawn in; or of its place in the
run, where times are spread evenly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from .bisection import inverse
from .densities import Density, check_density
from .derived_schedules import FromDensity
from .schedules import Schedule, check_schedule


class TimeSampling(ABC):
    """Draws times in [0, 1]. One of one's own gives `quantile`, `cdf` and `density`, elementwise on any shape."""

    @abstractmethod
    def quantile(self, share: Tensor) -> Tensor:
        """The time up to which this share of the times lies, for shares in [0, 1]."""

    @abstractmethod
    def cdf(self, t: Tensor) -> Tensor:
        """The share of the times up to t."""

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """How often times near t are drawn; 1 is as often as uniform times are."""

    def __call__(self, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        """Times, float32 [B], from seeds, int64 [B], and the samples' places in the run, int64 [B]."""
        return self.quantile(ops.uniform(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1))

    def correction(self, t: Tensor) -> Tensor | None:
        """What a loss at t is multiplied by so that its mean is that under the times meant; None for 1."""
        return None

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Told the losses [B] of a batch's samples at times t [B], while training."""
        return None

    def after_step(self) -> None:
        """Called after each optimizer step, on every rank."""
        return None


def check_times(times: object) -> None:
    """ValueError unless they are some."""
    check.instance(times, "times", TimeSampling, "UniformTimes()")


@dataclass(frozen=True)
class UniformTimes(TimeSampling):
    """Every time equally often, in (0, 1]."""

    def quantile(self, share: Tensor) -> Tensor:
        """The share itself."""
        return share

    def cdf(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def density(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormalTimes(TimeSampling):
    """logit t ~ N(mean, std²): the middle of the path more often than its ends.

    A positive mean moves the training towards noise. Esser et al., "Scaling rectified flow transformers" (Stable
    Diffusion 3), 2024, section 3.1. ValueError unless std > 0 and both are finite.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if not math.isfinite(self.mean + self.std):
            raise ValueError(f"mean and std must be finite, got {self.mean} and {self.std}")

    def __call__(self, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        """Times, float32 [B], from seeds, int64 [B]."""
        normal = ops.gaussian(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        return torch.sigmoid(self.mean + self.std * normal)

    def quantile(self, share: Tensor) -> Tensor:
        """The logistic function of the normal quantile."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(_before_the_last(share)))

    def cdf(self, t: Tensor) -> Tensor:
        """The normal cdf of logit t."""
        return torch.special.ndtr((torch.logit(t) - self.mean) / self.std)

    def density(self, t: Tensor) -> Tensor:
        """The normal density of logit t, over t·(1 − t); 0 at the ends."""
        tiny = torch.finfo(t.dtype).tiny
        log_t, log_rest = t.clamp_min(tiny).log(), (1 - t).clamp_min(tiny).log()
        exponent = -0.5 * ((log_t - log_rest - self.mean) / self.std) ** 2 - log_t - log_rest
        return exponent.exp() / (self.std * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class ModeTimes(TimeSampling):
    """t = 1 − u − s·(cos²(πu/2) − 1 + u) of uniform u: the middle more often for s > 0, the ends for s < 0.

    Esser et al., "Scaling rectified flow transformers" (Stable Diffusion 3), 2024, equation 20. ValueError unless scale
    lies in [−1, 2/(π − 2)], where t falls with u.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale must lie in [-1, {2 / (math.pi - 2):.4f}], got {self.scale}")

    def quantile(self, share: Tensor) -> Tensor:
        """The formula at u = 1 − share."""
        return share + self.scale * (share - torch.sin(math.pi / 2 * share) ** 2)

    def cdf(self, t: Tensor) -> Tensor:
        """The inverse of `quantile`, by bisection."""
        return inverse(self.quantile, t)

    def density(self, t: Tensor) -> Tensor:
        """1 over the slope of `quantile`."""
        rise = 1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * self.cdf(t)))
        return 1 / rise.clamp_min(torch.finfo(t.dtype).eps)


@dataclass(frozen=True)
class CosMapTimes(TimeSampling):
    """t = 1 − 1/(tan(πu/2) + 1) of uniform u: rectified flow with λ distributed as in the cosine schedule.

    Esser et al., "Scaling rectified flow transformers" (Stable Diffusion 3), 2024, equation 21.
    """

    def quantile(self, share: Tensor) -> Tensor:
        """sin/(sin + cos) of the angle πu/2."""
        angle = math.pi / 2 * share
        return (angle.sin() / (angle.sin() + angle.cos())).clamp_max(1)  # no cosine of float32's π/2 is 0

    def cdf(self, t: Tensor) -> Tensor:
        """The angle whose tangent is t/(1 − t), over π/2."""
        return torch.atan2(t, 1 - t) * (2 / math.pi)

    def density(self, t: Tensor) -> Tensor:
        """2/(π·(1 − 2t + 2t²))."""
        return 2 / (math.pi * (1 - 2 * t + 2 * t**2))


@dataclass(frozen=True)
class DiscreteTimes(TimeSampling):
    """The times 1/steps, 2/steps, …, 1 equally often: those of `DiscreteVP`'s entries. ValueError unless steps ≥ 1."""

    steps: int = 1000

    def __post_init__(self) -> None:
        check.integer(self.steps, "steps", 1)

    def quantile(self, share: Tensor) -> Tensor:
        """The first of the times that is not below the share."""
        return (share * self.steps).ceil().clamp(1, self.steps) / self.steps

    def cdf(self, t: Tensor) -> Tensor:
        """The share of the times up to t."""
        return (t * self.steps + 1e-4).floor() / self.steps  # a float32 of one of the times may lie below it

    def density(self, t: Tensor) -> Tensor:
        """1: each time stands for those since the one before."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class LevelTimes(TimeSampling):
    """Times at which λ has a density, whatever the schedule; the density is cut at the schedule's ends.

    EDM's ln σ ~ N(−1.2, 1.2²) is `LevelTimes(KarrasVE(), Normal(2.4, 2.4))`, for λ = −2 ln σ (Karras et al., 2022,
    table 1).
    """

    schedule: Schedule
    density_of_levels: Density
    _cut: FromDensity = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        check_density(self.density_of_levels, "density_of_levels")
        high, low = self.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).tolist()
        object.__setattr__(self, "_cut", FromDensity(self.density_of_levels, low, high))

    def quantile(self, share: Tensor) -> Tensor:
        """The time of λ at the share from above: λ falls with time."""
        return self.schedule.time(self._cut.log_snr(_before_the_last(share))).clamp(0, 1)

    def cdf(self, t: Tensor) -> Tensor:
        """The share of the density above λ(t)."""
        return self._cut.time(self.schedule.log_snr(t))

    def density(self, t: Tensor) -> Tensor:
        """The density of λ(t), times −dλ/dt."""
        return self._cut.pdf(self.schedule.log_snr(t)) * -self.schedule.slope(t)


def _before_the_last(share: Tensor) -> Tensor:
    """Shares, with the number below 1 for 1, which is drawn once in 2²⁴.

    Where the density of times is 0 at t = 1 no weight could be divided by it.
    """
    return share.clamp_max(1 - torch.finfo(share.dtype).eps / 2)

"""Schedules made of others: from a density of λ, shifted for a resolution, between two shifts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from .bisection import inverse
from .densities import Density, check_density
from .schedules import SMALLEST, Schedule, VariancePreserving, check_schedule

_MOST = -2 * math.log(SMALLEST)


@dataclass(frozen=True)
class FromDensity(VariancePreserving):
    """The schedule that gives λ this density under uniform times: λ(t) = F⁻¹(1 − t).

    The density is cut to [log_snr_min, log_snr_max], which are λ(1) and λ(0), however narrow it is. But t cannot hold
    every level between: those with less than 2⁻⁵³ of the density below them (2⁻²⁴ in float32) share the time 1, those
    with less above them than the smallest number the time 0. Hang et al., "Improved noise schedule for diffusion
    training", 2024, equation 5. ValueError unless log_snr_min < log_snr_max, with some density between.
    """

    density: Density
    log_snr_min: float = -15.0
    log_snr_max: float = 15.0
    _shares: tuple[float, float, float] = field(init=False, repr=False)  # below λ_min, above λ_max, between

    def __post_init__(self) -> None:
        check_density(self.density, "density")
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(
                f"log_snr_min must be smaller than log_snr_max, got {self.log_snr_min} and {self.log_snr_max}"
            )
        object.__setattr__(self, "_shares", self._cut())
        if not self._shares[2] > 0:
            raise ValueError(f"log_snr_min and log_snr_max must have some of {self.density} between them, got none")

    def _cut(self) -> tuple[float, float, float]:
        low, high = (
            torch.tensor(end, dtype=torch.float64, device="cpu") for end in (self.log_snr_min, self.log_snr_max)
        )
        below, above = self.density.cdf(low).item(), self.density.survival(high).item()
        if self.log_snr_min > self.density.mean:  # where 1 − below − above would be nothing but rounding
            return below, above, self.density.survival(low).item() - above
        if self.log_snr_max < self.density.mean:
            return below, above, self.density.cdf(high).item() - below
        return below, above, 1 - below - above

    # From the tail that is nearer: 1 − share would lose its last digits.

    def log_snr(self, t: Tensor) -> Tensor:
        """The quantile of what is left, from log_snr_max at t = 0 to log_snr_min at t = 1."""
        below, above, inside = self._shares
        lower, upper = below + (1 - t) * inside, above + t * inside
        tail, tiny = torch.where(lower < upper, lower, upper), torch.finfo(t.dtype).tiny
        low = self.density.lower_quantile(tail.clamp_min(tiny))
        high = 2 * self.density.mean - low
        # At an end, where t's type holds no share that small; its λ stops where that of all schedules does.
        last, first = low.clamp_max(max(self.log_snr_min, -_MOST)), high.clamp_min(min(self.log_snr_max, _MOST))
        last, first = torch.where(tail < tiny, last, low), torch.where(tail < tiny, first, high)
        return torch.where(lower < upper, last, first)

    def pdf(self, log_snr: Tensor) -> Tensor:
        """The density of λ under uniform times, for λ between the ends."""
        return self.density.pdf(log_snr) / self._shares[2]

    def time(self, log_snr: Tensor) -> Tensor:
        """The share of the density above λ."""
        below, above, inside = self._shares
        from_data = (self.density.survival(log_snr) - above) / inside
        from_noise = (self.density.cdf(log_snr) - below) / inside
        return torch.where(from_data < 0.5, from_data, 1 - from_noise)


class _Moved(Schedule):
    """The curve of (α, σ) of another schedule, at another λ."""

    schedule: Schedule

    def alpha(self, t: Tensor) -> Tensor:
        """The schedule's α at the shifted λ; 0 where its own is."""
        own = self.schedule.alpha(t)
        return torch.where(own == 0, own, self.levels(self.log_snr(t))[0])

    def sigma(self, t: Tensor) -> Tensor:
        """The schedule's σ at the shifted λ; 0 where its own is."""
        own = self.schedule.sigma(t)
        return torch.where(own == 0, own, self.levels(self.log_snr(t))[1])

    def levels(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """(α, σ), on the schedule's own curve."""
        return self.schedule.levels(log_snr)


def _check(moved: _Moved, **lengths: float) -> None:
    check_schedule(moved.schedule)
    if isinstance(moved.schedule, nn.Module):
        raise ValueError("schedule must not be a learned one: give that its ends")
    for name, length in lengths.items():
        if not 0 < length < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {length}")


def _shift(reference: float, resolution: float) -> float:
    return 2 * (math.log(reference) - math.log(resolution))  # their ratio may be no number


@dataclass(frozen=True)
class Shifted(_Moved):
    """λ' = λ + 2 ln(reference/resolution): the noise that `schedule` has at side `reference`, at side `resolution`.

    Averaging s×s pixels divides the noise of their mean by s: at a higher resolution the same information is destroyed
    by more noise. On rectified flow this is Stable Diffusion 3's shift of times by resolution/reference (Esser et al.,
    2024, equation 23). Noise of another standard deviation s is the same thing, with reference 1 and resolution s, as
    is an input scale b (Chen, 2023), with reference b and resolution 1.

    ends: "move" shifts λ(0) and λ(1) with the rest; "keep" leaves them where they are, for schedules that go on beyond
    their ends. Hoogeboom, Heek and Salimans, "Simple diffusion", 2023, equation 4. ValueError for lengths that are not
    positive, a learned schedule, another `ends`, or "keep" where the schedule ends.
    """

    schedule: Schedule
    reference: float
    resolution: float
    ends: Literal["move", "keep"] = "move"
    _shift: float = field(init=False, repr=False)
    _span: tuple[float, float] = field(init=False, repr=False)  # the schedule's times that stand for 0 and 1

    def __post_init__(self) -> None:
        _check(self, reference=self.reference, resolution=self.resolution)
        if self.ends not in ("move", "keep"):
            raise ValueError(f"ends must be move or keep, got {self.ends!r}")
        object.__setattr__(self, "_shift", _shift(self.reference, self.resolution))
        object.__setattr__(self, "_span", (0.0, 1.0) if self.ends == "move" else self._kept_ends())

    def _kept_ends(self) -> tuple[float, float]:
        wanted = self.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")) - self._shift
        times = self.schedule.time(wanted)
        # In float32, where a schedule that barely goes on has no digits left there.
        if not bool(((self.schedule.log_snr(times.float()) - wanted).abs() < 1e-3).all()):
            raise ValueError(f"ends must be move for {self.schedule}, which does not go on beyond its ends")
        start, end = times.tolist()
        return start, end

    def log_snr(self, t: Tensor) -> Tensor:
        """λ + 2 ln(reference/resolution)."""
        start, end = self._span
        return self.schedule.log_snr(t if self.ends == "move" else start + t * (end - start)) + self._shift

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse."""
        start, end = self._span
        t = self.schedule.time(log_snr - self._shift)
        return t if self.ends == "move" else (t - start) / (end - start)


@dataclass(frozen=True)
class Interpolated(_Moved):
    """The shift from side `high` where there is little noise, to that from side `low` where there is much.

    λ'(t) = λ(t) + 2·(t·ln(low/resolution) + (1 − t)·ln(high/resolution)): global structure gets more noise than
    details. Hoogeboom, Heek and Salimans, "Simple diffusion", 2023, section 3.1, as in the published code; in the
    paper's equation 6 the two are the other way round. ValueError unless 0 < low ≤ high and resolution > 0, and for a
    learned schedule.
    """

    schedule: Schedule
    low: float
    high: float
    resolution: float

    def __post_init__(self) -> None:
        _check(self, low=self.low, high=self.high, resolution=self.resolution)
        if self.low > self.high:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}")

    def log_snr(self, t: Tensor) -> Tensor:
        """λ with the shift of its time."""
        low, high = (_shift(side, self.resolution) for side in (self.low, self.high))
        return self.schedule.log_snr(t) + t * low + (1 - t) * high

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse, found by bisection, for λ between the ends."""
        return inverse(lambda t: -self.log_snr(t), -log_snr)

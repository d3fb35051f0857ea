"""Runge–Kutta and Adams–Bashforth methods on the slope of the probability-flow ODE.

With the state divided by a scale k, y = x_t/k, and the noise level s = σ/k, the ODE is dy/ds = (y − x̂)/s. k is α, as
in Karras et al., "Elucidating the design space of diffusion-based generative models", 2022; on rectified flow it is
α + σ = 1, so that s is the time and the slope the velocity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ... import _check as check
from ..derived_schedules import Interpolated, Shifted
from ..path import Level, Path
from ..schedules import RectifiedFlow, Schedule
from .euler import churned, raised
from .lagrange import lagrange_integrals
from .rows import S0, S1, SLOTS, D, Row, Sum, X, first_order


def heun(
    path: Path,
    *,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Iterator[Row]:
    """Karras et al., 2022, algorithms 1 and 2: the mean of the slopes at both ends; Euler's step to noise 0."""
    check.real(churn_noise, "churn_noise", 0)
    starts = churned(path, churn, churn_min, churn_max)
    points = Coordinates(path)
    for i, (start, (_, end)) in enumerate(zip(starts, path.steps(), strict=True)):
        following = starts[i + 1] if i + 1 < len(starts) else end
        a, c = points.at(start), points.at(end)
        if a.k == 0 or end.sigma == 0:
            yield Row(start, raised(first_order(start, end), end, following, churn_noise))
            continue
        half = (c.s - a.s) / 2
        yield Row(start, first_order(start, end), {0: X / a.k + half * a.slope()}, ends=False)
        yield Row(end, raised(c.k * (S0 + half * c.slope()), end, following, churn_noise))


def midpoint(path: Path) -> Iterator[Row]:
    """The slope in the middle of a step."""
    points = Coordinates(path)
    for a, c in points.steps():
        yield from _two_stage(a, c, points.at_s((a.s + c.s) / 2) if a.k > 0 else None)


def dpm2(path: Path) -> Iterator[Row]:
    """k-diffusion's `sample_dpm_2`: the slope in the geometric middle of a step (Lu et al., "DPM-Solver", 2022)."""
    points = Coordinates(path)
    for a, c in points.steps():
        middle = 0 < a.level.ratio < math.inf and c.level.sigma > 0
        yield from _two_stage(a, c, points.at(path.between(a.level, c.level)) if middle else None)


def rk4(path: Path) -> Iterator[Row]:
    """The classical Runge–Kutta method of order 4; the midpoint's where a step ends without noise."""
    points = Coordinates(path)
    for a, c in points.steps():
        if a.k == 0 or c.level.sigma == 0:
            yield from midpoint(Path(path.schedule, (a.level, c.level)))
            continue
        b, step = points.at_s((a.s + c.s) / 2), c.s - a.s
        y = X / a.k
        yield Row(a.level, b.k * (y + step / 2 * a.slope()), {0: y, 1: y + step / 6 * a.slope()}, ends=False)
        yield Row(b.level, b.k * (S0 + step / 2 * b.slope()), {1: S1 + step / 3 * b.slope()}, ends=False)
        yield Row(b.level, c.k * (S0 + step * b.slope()), {1: S1 + step / 3 * b.slope()}, ends=False)
        yield Row(c.level, c.k * (S1 + step / 6 * c.slope()))


def adams_bashforth(path: Path, *, order: int = 4) -> Iterator[Row]:
    """k-diffusion's `sample_lms`: the slopes of the last `order` steps, continued as a polynomial, integrated exactly.

    In σ/α this is also ρAB-DEIS (Zhang and Chen, 2023).

    Order 1 to 4; the first steps have as many slopes as there are.
    """
    check.integer(order, "order", 1, 4)
    known: list[float] = []
    for i, (a, c) in enumerate(Coordinates(path).steps()):
        if a.k == 0:
            yield Row(a.level, first_order(a.level, c.level))
            continue
        known = [a.s, *known][:order]
        slopes = [a.slope(), *(SLOTS[(i - j) % (order - 1)] for j in range(1, len(known)))]
        weights = lagrange_integrals(known, a.s, c.s)
        after = X / a.k + sum(weight * one for weight, one in zip(weights, slopes, strict=True))
        yield Row(a.level, c.k * after, {i % (order - 1): a.slope()} if order > 1 else {})


@dataclass(frozen=True)
class Point:
    """A level with its scale k, and s = σ/k; k is 0 where there is no slope: nothing of the image is left."""

    level: Level
    k: float

    @property
    def s(self) -> float:
        return self.level.sigma / self.k

    def slope(self) -> Sum:
        """(y − x̂)/s."""
        return (X / self.k - D) / self.s


class Coordinates:
    """The points of a path's levels."""

    def __init__(self, path: Path) -> None:
        self.path, self.straight = path, _is_straight(path.schedule)

    def at(self, level: Level) -> Point:
        return Point(level, level.alpha + level.sigma if self.straight else level.alpha)

    def at_s(self, s: float) -> Point:
        """The point whose noise level is `s`."""
        return self.at(self.path.at_ratio(s / (1 - s) if self.straight else s))

    def steps(self) -> list[tuple[Point, Point]]:
        return [(self.at(start), self.at(end)) for start, end in self.path.steps()]


def _is_straight(schedule: Schedule) -> bool:
    """Whether a schedule's levels are those of rectified flow, at whatever times: shifted ones are."""
    return isinstance(schedule, RectifiedFlow) or (
        isinstance(schedule, Shifted | Interpolated) and _is_straight(schedule.schedule)
    )


def _two_stage(a: Point, c: Point, middle: Point | None) -> Iterator[Row]:
    """A step with the slope at `middle`; of first order where there is none."""
    if middle is None:
        yield Row(a.level, first_order(a.level, c.level))
        return
    yield Row(a.level, first_order(a.level, middle.level), {0: X / a.k}, ends=False)
    yield Row(middle.level, c.k * (S0 + (c.s - a.s) * middle.slope()))

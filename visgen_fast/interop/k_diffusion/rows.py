"""The rows of k-diffusion's samplers that `diffusion.solvers` does not have, on its path x + σ·ε."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ...diffusion.path import Level, Path
from ...diffusion.solvers.euler import churned, raised
from ...diffusion.solvers.rows import S0, S1, D, Row, Sum, X, Z, ancestral, check_eta, first_order, noise


def dpm_2(path: Path, *, churn: float, churn_min: float, churn_max: float) -> Iterator[Row]:
    """`sample_dpm_2`: the slope in the geometric middle of a step, which may begin with noise."""
    starts = churned(path, churn, churn_min, churn_max)
    for i, (start, (_, end)) in enumerate(zip(starts, path.steps(), strict=True)):
        following = starts[i + 1] if i + 1 < len(starts) else end
        if end.sigma == 0:
            yield Row(start, first_order(start, end))
            continue
        middle = path.between(start, end)
        yield Row(start, first_order(start, middle), {0: X}, ends=False)
        yield Row(middle, raised(_by_the_middle(start, middle, end.sigma), end, following, 1.0))


def dpm_2_ancestral(path: Path, *, eta: float) -> Iterator[Row]:
    """`sample_dpm_2_ancestral`: the same down to a lower level, and noise up; no noise where that level is 0."""
    check_eta(eta)
    for start, end in path.steps():
        down, up = ancestral(start, end, eta)
        if down == 0:
            yield Row(start, D)
            continue
        middle = path.between(start, path.at_ratio(down))
        yield Row(start, first_order(start, middle), {0: X}, ends=False)
        yield Row(middle, _by_the_middle(start, middle, down) + up * Z)


def dpm_fast(path: Path, *, orders: Sequence[int], eta: float) -> Iterator[Row]:
    """`sample_dpm_fast`: Lu et al., "DPM-Solver", 2022, algorithms 1 and 2 and Euler's step, as `orders` says."""
    check_eta(eta)
    last = path.levels[-1].sigma
    for order, (start, end) in zip(orders, path.steps(), strict=True):
        down = max(ancestral(start, end, eta)[0], last)
        up = math.sqrt(max(end.sigma**2 - down**2, 0.0)) if eta else 0.0
        low = path.at_ratio(down) if eta else end
        if order == 1:
            yield Row(start, first_order(start, low) + up * Z)
        elif order == 2:
            middle = path.between(start, low)
            yield Row(start, first_order(start, middle), {0: X}, ends=False)
            yield Row(middle, _by_the_middle(start, middle, low.sigma) + up * Z)
        else:
            yield from _third_order(path, start, low, up)


def _by_the_middle(start: Level, middle: Level, down: float) -> Sum:
    """The whole step with the slope at `middle`, from the state in slot 0."""
    return S0 + (down - start.sigma) * noise(middle)


def _third_order(path: Path, start: Level, end: Level, up: float) -> Iterator[Row]:
    """Slot 0 takes the state, slot 1 its noise; what a later noise differs by enters with its integral."""
    first, second = path.between(start, end, 1 / 3), path.between(start, end, 2 / 3)
    yield Row(start, first_order(start, first), {0: X, 1: noise(start)}, ends=False)
    for at, to, share, fresh in ((first, second, 1 / 2, 0.0), (second, end, 2 / 3, up)):
        h = math.log(start.sigma / to.sigma)
        bend = to.sigma / share * (math.expm1(h) / h - 1)
        after = S0 + (to.sigma - start.sigma) * S1 - bend * (noise(at) - S1)
        yield Row(at, after + fresh * Z, ends=to is end)

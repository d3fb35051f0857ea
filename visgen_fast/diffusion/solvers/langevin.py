"""Annealed Langevin dynamics, which draws from the densities of all levels in turn, as sums of energies need it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ... import _check as check
from ..path import Path
from .rows import Row, X, Z, first_order, noise


def annealed_langevin(path: Path, *, corrections: int = 1, step: float = 0.05) -> Iterator[Row]:
    """A step of DDIM to each level, then `corrections` of Langevin dynamics there, of step·σ².

    Each correction is x + step·σ²·score + √(2·step)·σ·z, with the score −ε̂/σ. The last level, where there is no noise
    any more, has none. Song and Ermon, "Generative modeling by estimating gradients of the data distribution", 2019;
    Song et al., "Score-based generative modeling through stochastic differential equations", 2021, algorithm 2, for the
    steps between levels.
    """
    check.integer(corrections, "corrections", 0)
    check.real(step, "step", 0, 1)
    for start, end in path.steps():
        steady = end.sigma > 0 and corrections > 0
        yield Row(start, first_order(start, end), ends=not steady)
        for left in reversed(range(corrections if steady else 0)):
            moved = X - step * end.sigma * noise(end) + math.sqrt(2 * step) * end.sigma * Z
            yield Row(end, moved, ends=left == 0)

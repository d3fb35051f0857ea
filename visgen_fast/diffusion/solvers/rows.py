"""What a sampler is written with: one row for each network call, as sums of the things that a row may read.

A sum is a vector of eight numbers over the operands of `ops.solver_step`, so formulas are written as in the papers:
`alpha * D + sigma * noise(level)`. Here X is the state x_t itself; a plan turns it into what the network reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ... import _check as check
from ..path import Level

Sum = np.ndarray  # float64 [8]

X, D, O, S0, S1, S2, S3, Z = np.eye(8)  # noqa: E741  (the last output, as it came)
"""State, denoised image, last output, the four slots, and fresh noise."""
SLOTS = (S0, S1, S2, S3)


@dataclass(frozen=True)
class Row:
    """One network call at `at`, and what follows from it.

    next: the state after it; write: the slots, at most two, that it sets; ends: whether the state after it stands at
    the end of a step, rather than at a stage in its middle; log_variance: (l0, l1) of a learned variance.
    """

    at: Level
    next: Sum
    write: dict[int, Sum] = field(default_factory=dict)
    ends: bool = True
    log_variance: tuple[float, float] = (0.0, 0.0)


def check_eta(eta: float, most: float = math.inf) -> None:
    """TypeError or ValueError unless `eta`, a share of noise, is a number in [0, most]."""
    check.real(eta, "eta", 0, most)


def noise(at: Level) -> Sum:
    """ε̂, the noise that state and denoised image imply where there is noise."""
    return (X - at.alpha * D) / at.sigma


def first_order(at: Level, to: Level, denoised: Sum = D) -> Sum:
    """The state at `to` if the denoised image stays what it is: α'·x̂ + σ'·ε̂, exact for a constant x̂.

    It is finite where α = 0. On rectified flow it is Euler's step, on a variance-preserving path DDIM's (Song et al.,
    2021, equation 12, η = 0).
    """
    shrink = to.sigma / at.sigma
    return shrink * X + (to.alpha - at.alpha * shrink) * denoised


def ancestral(at: Level, to: Level, eta: float) -> tuple[float, float]:
    """(down, up): the ratio σ/α to go down to, and the noise to add to come back to that of `to`.

    Source: Karras et al., 2022, in the form of k-diffusion's `get_ancestral_step`.
    """
    if eta == 0 or to.ratio == 0:
        return to.ratio, 0.0
    up = min(to.ratio, eta * to.ratio * max(1 - (to.ratio / at.ratio) ** 2, 0.0) ** 0.5)
    return (to.ratio**2 - up**2) ** 0.5, up

"""Ancestral sampling of DDPM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from ..path import Path
from .euler import snr_ratio
from .rows import D, Row, X, Z


def ddpm(path: Path, *, variance: Literal["small", "large", "learned_range"] = "small") -> Iterator[Row]:
    """Ho et al., "Denoising diffusion probabilistic models", 2020, equation 7, between any two levels of any path.

    The variance is that of the posterior ("small", β̃), of the forward step ("large", β), or the network's choice
    between the logarithms of the two (Nichol and Dhariwal, 2021, equation 15). The last step adds none.
    """
    if variance not in ("small", "large", "learned_range"):
        raise ValueError(f"variance must be small, large or learned_range, got {variance!r}")
    for start, end in path.steps():
        ratio = snr_ratio(start, end)
        mean = (1 - ratio) * end.alpha * D
        if start.alpha > 0:
            mean = mean + start.alpha * end.sigma**2 / (end.alpha * start.sigma**2) * X
        small, large = (1 - ratio) * end.sigma**2, (1 - ratio) * start.sigma**2
        if end.sigma == 0:
            yield Row(start, mean)
        elif variance == "learned_range":
            logs = math.log(small), math.log(large)
            yield Row(start, mean + Z, log_variance=((logs[0] + logs[1]) / 2, (logs[1] - logs[0]) / 2))
        else:
            yield Row(start, mean + (small if variance == "small" else large) ** 0.5 * Z)

"""Intervals for measures of sets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def bootstrap_interval(
    measure: Callable[..., float | Sequence[float]], *sets: Tensor, resamples: int = 100, seed: int = 0
) -> tuple[float, float] | list[tuple[float, float]]:
    """The 95% interval of `measure(*sets)`, where each set is [N, ...], from random halves of all sets.

    Of a measure of several numbers, the interval of each.

    Pictures must not be drawn with replacement: one that occurs twice has a neighbour at distance 0, and adds to a
    kernel distance what its own square does. Halves are drawn without. An estimate from a half lies as far from that of
    the whole as that from the truth, for every measure whose error falls with the root of N; its bias cancels.

    ValueError for fewer than 2 resamples, or a set of fewer than 4.

    Source: Politis and Romano, "Large sample confidence regions based on subsamples under minimal assumptions", 1994.
    """
    if resamples < 2 or not sets or min(map(len, sets)) < 4:
        raise ValueError(
            f"there must be at least 2 resamples, and sets of at least 4 pictures, got {resamples} and "
            f"{[len(one) for one in sets]}"
        )
    generator, whole = torch.Generator().manual_seed(seed), torch.tensor(measure(*sets), dtype=torch.float64)
    found = []
    for _ in range(resamples):
        halves = [torch.randperm(len(one), generator=generator)[: len(one) // 2].to(one.device) for one in sets]
        found.append(measure(*(one[half] for one, half in zip(sets, halves, strict=True))))
    values = torch.tensor(found, dtype=torch.float64)
    below, above = (values - values.mean(0)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), 0)
    low, high = (whole - above).tolist(), (whole - below).tolist()
    return list(zip(low, high, strict=True)) if isinstance(low, list) else (low, high)

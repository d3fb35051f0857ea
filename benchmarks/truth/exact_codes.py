"""Exact claims about codes and about pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast.diffusion import (
    CosineVP,
    DiscreteVP,
    FromDensity,
    KarrasVE,
    Laplace,
    RectifiedFlow,
    Schedule,
    Shifted,
    SigmoidVP,
    coefficients,
)

from .claim import Claim, Row

Weights = Callable[[int], Tensor]


def weighted(codes: int) -> Tensor:
    """The weights of the sum S̄ that all prefixes together aim at: (N − k)/N of code k, counted from 0."""
    return (codes - torch.arange(codes, dtype=torch.float64)) / codes


def plain(codes: int) -> Tensor:
    """The weights of the sum of all codes."""
    return torch.ones(codes, dtype=torch.float64)


def optimum(weights: Weights) -> Sequence[Row]:
    """The image of least summed error to what a linear decoder makes of each prefix, against the decoded S̄."""
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    codes = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    decoded = codes.cumsum(0) @ decoder.T
    stacked = torch.eye(12, dtype=torch.float64).repeat(6, 1)
    image = torch.linalg.lstsq(stacked, decoded.flatten()[:, None]).solution[:, 0]
    closed = decoder @ (weights(6) @ codes)
    return [Row("distance of the closed form from least squares", [float((image - closed).norm())], "below", 1e-10)]


def distances(codes: int, weights: Weights) -> Tensor:
    """E‖S_d − S̄‖² of independent codes with variance 1, for the prefixes of 1 to N codes."""
    kept = torch.tril(torch.ones(codes, codes, dtype=torch.float64))
    return (kept - weights(codes)).square().sum(1)


def three_of_four(weights: Weights) -> Sequence[Row]:
    exact = distances(4, weights)
    sampled = []
    for seed in range(3):
        drawn = torch.randn(20_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        errors = (drawn.cumsum(1) - (drawn * weights(4)).sum(1, keepdim=True)).square().mean(0)
        sampled.append(float(errors[2] - errors[3]))
    return [
        Row("distance after three codes less that after four", [float(exact[2] - exact[3])], "below", 0.0),
        Row("the same, sampled", sampled, "below", 0.0),
    ]


def fifth_of_eight(weights: Weights) -> Sequence[Row]:
    nearest = [float(distances(8, weights).argmin()) + 1]
    return [Row("codes in the nearest prefix", nearest, side, bound) for side, bound in (("above", 4), ("below", 5))]


def _pooled(images: Tensor, factor: int) -> Tensor:
    return F.avg_pool2d(images, factor)


def _every(images: Tensor, factor: int) -> Tensor:
    return images[..., ::factor, ::factor]


def pooling(schedule: Schedule, reduce: Callable[[Tensor, int], Tensor]) -> Sequence[Row]:
    """The signal-to-noise ratio of a flat picture, noised and made smaller, over that before; noise is exact.

    The variance of what a linear map makes of white noise is the sum of its squared weights, which unit pictures show.
    """
    alpha, sigma = coefficients(schedule, "epsilon", torch.tensor([0.3, 0.7])).double()[:, :2].unbind(1)
    units = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    worst = 0.0
    for factor in (2, 4, 8):
        noise = sigma**2 * reduce(units, factor)[:, 0, 0, 0].square().sum()
        signal = alpha**2 * reduce(torch.ones(1, 1, 8, 8, dtype=torch.float64), factor)[0, 0, 0, 0] ** 2
        gain = (signal / noise) / (alpha**2 / sigma**2)
        worst = max(worst, float((gain / factor**2 - 1).abs().max()))
    return [Row("relative difference of the ratio's gain from s²", [worst], "below", 1e-6)]


def shifted(factor: float) -> Sequence[Row]:
    """λ of the schedule shifted for s times the side, after pooling by s, less λ of the schedule at the small side."""
    schedules = (
        CosineVP(),
        RectifiedFlow(),
        SigmoidVP(),
        KarrasVE(),
        DiscreteVP.linear(),
        FromDensity(Laplace(0.0, 0.5)),
    )
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    worst = 0.0
    for schedule in schedules:
        moved = Shifted(schedule, 16, 16 * factor)
        noised = 2 * (moved.alpha(t).log() - (moved.sigma(t) / 4).log())
        worst = max(worst, float((noised - schedule.log_snr(t)).abs().max()))
    return [Row("largest difference of λ", [worst], "below", 1e-6)]


CLAIMS = (
    Claim(
        *(18, "000:86", "linear decoder, equal weights: the optimum latent is the weighted sum S̄", "exact", "differ"),
        measure=partial(optimum, weighted),
        planted=partial(optimum, plain),
    ),
    Claim(
        *(19, "000:94", "i.i.d. codes: three of four are nearer than all four", "exact", "not nearer"),
        measure=partial(three_of_four, weighted),
        planted=partial(three_of_four, plain),
    ),
    Claim(
        *(20, "003:339", "… of eight, about the fifth is nearest", "exact", "minimum elsewhere"),
        measure=partial(fifth_of_eight, weighted),
        planted=partial(fifth_of_eight, plain),
    ),
    Claim(
        *(48, "001:14, 23", "s×s pooling multiplies the signal-to-noise ratio by s²", "exact", "not s²"),
        measure=partial(pooling, CosineVP(), _pooled),
        planted=partial(pooling, CosineVP(), _every),
    ),
    Claim(
        *(49, "001:66", "… for rectified flow too", "exact", "not s²"),
        measure=partial(pooling, RectifiedFlow(), _pooled),
        planted=partial(pooling, RectifiedFlow(), _every),
    ),
    Claim(
        *(50, "001:27", "the shifted schedule, pooled, has the low resolution's ratio", "exact", "not"),
        measure=partial(shifted, 4),
        planted=partial(shifted, 2),
    ),
)

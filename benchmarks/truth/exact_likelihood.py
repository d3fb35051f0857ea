"""Exact claims about likelihood, weights and distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from visgen_fast.diffusion import (
    ELBO,
    Cauchy,
    CosineVP,
    Density,
    DiffusionObjective,
    EDMMonotonic,
    FromDensity,
    HyperbolicSecant,
    KarrasVE,
    Laplace,
    LevelTimes,
    LogitNormalTimes,
    MinSNR,
    Normal,
    RectifiedFlow,
    Sigmoid,
    UniformTimes,
)
from visgen_fast.evaluation import FeatureMoments, frechet_distance, kernel_distance

from .claim import Claim, Row

_LEVELS = torch.linspace(-8, 8, 16001, dtype=torch.float64)


def gaussian_fit(noise: float) -> Sequence[Row]:
    """Least score-matching loss of a Gaussian, E ½‖s‖² + tr ∇s for s(x) = W·x + b, on points with so much noise."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 3, dtype=torch.float64, generator=generator) @ torch.randn(
        3, 3, dtype=torch.float64, generator=generator
    ) + torch.tensor([1.0, -2.0, 0.5])
    noised = points + noise * torch.randn(500, 3, dtype=torch.float64, generator=generator)
    inputs = torch.cat((noised, torch.ones(500, 1, dtype=torch.float64)), 1)
    # The loss is quadratic in (W, b): ½ tr(W E[φφᵀ] Wᵀ) + tr W.
    found = -torch.linalg.inv(inputs.T @ inputs / 500)[:3]
    covariance = -torch.linalg.inv(found[:, :3])
    mean = covariance @ found[:, 3]
    centred = points - points.mean(0)
    return [
        Row("difference of the means", [float((mean - points.mean(0)).abs().max())], "below", 1e-8),
        Row(
            "difference of the covariances",
            [float((covariance - centred.T @ centred / 500).abs().max())],
            "below",
            1e-8,
        ),
    ]


def sum_of_bounds(weight: Callable[[Tensor], Tensor], positive: bool) -> Sequence[Row]:
    """The weighted loss of the exact denoiser of N(0, s²), against a sum of exact bounds of noised data.

    A bound of data noised to λ is ½∫ up to λ of the error of ε; for a Gaussian that is ½ ln((1 + s²e^λ)/(1 + s²e^λ₀)).
    The weights of the bounds are the falls of w, which are positive only where w falls throughout; `positive` leaves
    the others out.
    """
    spread = 1.7
    snr = _LEVELS.exp()
    error = snr * spread**2 / (1 + spread**2 * snr)
    w = weight(_LEVELS)
    loss = torch.trapezoid(0.5 * w * error, _LEVELS)
    bounds = 0.5 * ((1 + spread**2 * snr) / (1 + spread**2 * snr[0])).log()
    falls = torch.cat((w[:-1] - w[1:], w[-1:]))
    if positive:
        falls = falls.clamp_min(0)
    # Between two levels the fall lies in the middle.
    middle = torch.cat(((bounds[:-1] + bounds[1:]) / 2, bounds[-1:]))
    relative = float(((falls * middle).sum() / loss - 1).abs())
    return [
        Row("relative difference of the loss from the sum of bounds", [relative], "below", 1e-6),
        Row("smallest weight of a bound", [float(falls.min())], "above", 0.0),
    ]


def _monotone(log_snr: Tensor) -> Tensor:
    return torch.sigmoid(2 - log_snr)


def _peaked(log_snr: Tensor) -> Tensor:
    return 1 / (2 * torch.cosh(log_snr / 2))


def in_use() -> list[DiffusionObjective]:
    """How diffusion models are trained."""
    laplace, karras = FromDensity(Laplace(0.0, 0.5)), KarrasVE()
    return [
        DiffusionObjective(CosineVP(), "epsilon", UniformTimes()),
        DiffusionObjective(CosineVP(), "v", UniformTimes()),
        DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes()),
        DiffusionObjective(RectifiedFlow(), "velocity", LogitNormalTimes()),
        DiffusionObjective(karras, "edm", LevelTimes(karras, Normal(2.4, 2.4))),
        DiffusionObjective(CosineVP(), "epsilon", UniformTimes(), weight=MinSNR()),
        DiffusionObjective(laplace, "epsilon", UniformTimes()),
    ]


def rightful() -> list[DiffusionObjective]:
    """Such with weights that are monotone by design."""
    weights = ELBO(), Sigmoid(), EDMMonotonic()
    return [DiffusionObjective(CosineVP(), "v", UniformTimes(), weight=weight) for weight in weights]


def monotone_share(objectives: Callable[[], list[DiffusionObjective]]) -> Sequence[Row]:
    levels = torch.linspace(-8, 8, 401, dtype=torch.float64)
    falling = []
    for objective in objectives():
        w = objective.implied_weight(levels)
        falling.append(bool((w[1:] <= w[:-1] * (1 + 1e-6)).all()))
    share = 1 - sum(falling) / len(falling)
    return [Row("share of the objectives whose w(λ) rises somewhere", [share], "above", 0.5)]


def same_expectation(corrected: bool) -> Sequence[Row]:
    """E over p of (w/p)·loss for five p, against ∫ w·loss dλ, in standard errors."""

    def integrand(log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return torch.exp(-log_snr.square() / 8) * snr / (1 + snr)

    wide = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    exact, worst = float(torch.trapezoid(integrand(wide), wide)), 0.0
    densities: tuple[Density, ...] = (
        Normal(0.0, 3.0),
        Normal(1.0, 4.0),
        Laplace(0.0, 2.0),
        HyperbolicSecant(),
        Cauchy(0.0, 2.0),
    )
    for number, density in enumerate(densities):
        generator = torch.Generator().manual_seed(number)
        shares = torch.rand(20_000, dtype=torch.float64, generator=generator).clamp(1e-9, 1 - 1e-9)
        drawn = density.quantile(shares)
        values = integrand(drawn) / (density.pdf(drawn) if corrected else 1.0)
        error = float(values.std()) / math.sqrt(len(values))
        worst = max(worst, abs(float(values.mean()) - exact) / error)
    return [Row("largest deviation of five densities, in standard errors", [worst], "below", 4.0)]


def equal_moments(spread: float) -> Sequence[Row]:
    """Two laws with equal means and covariances, but for a factor `spread` of one: normal, and exponential."""
    fids, kids = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(2000, 6, dtype=torch.float64, generator=generator)
        skewed = -torch.rand(2000, 6, dtype=torch.float64, generator=generator).clamp_min(1e-12).log() - 1
        normal, skewed = _standard(normal), spread * _standard(skewed)
        moments = [FeatureMoments(), FeatureMoments()]
        for one, values in zip(moments, (normal, skewed), strict=True):
            one.add(values)
        fids.append(frechet_distance(*moments))
        kids.append(kernel_distance(normal, skewed))
    return [
        Row("Fréchet distance of laws with equal moments", [max(fids)], "below", 1e-6),
        Row("their kernel distance", kids, "above", 0.0),
    ]


def _standard(values: Tensor) -> Tensor:
    """Points with mean 0 and covariance 1, exactly."""
    centred = values - values.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / (len(values) - 1))
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def tight_bound(kl_weight: float) -> Sequence[Row]:
    """ELBO and ln p(x) of x = W·z + noise, with z ~ N(0, 1): at the true posterior, and at others."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    x, spread = torch.randn(4, dtype=torch.float64, generator=generator), 0.7
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), matrix @ matrix.T + spread**2 * torch.eye(4, dtype=torch.float64)
    ).log_prob(x)
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + matrix.T @ matrix / spread**2)
    mean = covariance @ matrix.T @ x / spread**2

    def elbo(mean: Tensor, covariance: Tensor) -> Tensor:
        errors = (x - matrix @ mean).square().sum() + (matrix @ covariance @ matrix.T).trace()
        reconstruction = -0.5 * errors / spread**2 - 2 * math.log(2 * math.pi * spread**2)
        kl = 0.5 * (covariance.trace() + mean.square().sum() - 2 - covariance.logdet())
        return reconstruction - kl_weight * kl

    others = [
        float(elbo(mean + shift * torch.ones(2).double(), scale * covariance) - evidence)
        for shift in (-0.5, 0.0, 0.5)
        for scale in (0.5, 1.5, 3.0)
    ]
    return [
        Row("gap at the true posterior", [abs(float(elbo(mean, covariance) - evidence))], "below", 1e-8),
        Row("largest ELBO less ln p(x) at others", [max(others)], "below", 0.0),
    ]


CLAIMS = (
    Claim(
        *(29, "000:112", "for Gaussians score matching = maximum likelihood", "exact", "differ"),
        measure=partial(gaussian_fit, 0.0),
        planted=partial(gaussian_fit, 0.5),
    ),
    Claim(
        *(30, "000:114, 003:349", "a monotone w(λ) makes the loss an ELBO of noised data", "exact", "no identity"),
        measure=partial(sum_of_bounds, _monotone, False),
        planted=partial(sum_of_bounds, _peaked, True),
    ),
    Claim(
        *(31, "000:103, 003:351", "training in use isn't monotone", "exact", "all monotone"),
        measure=partial(monotone_share, in_use),
        planted=partial(monotone_share, rightful),
    ),
    Claim(
        *(39, "000:126", "changing w or p is the same in expectation", "exact", "not"),
        measure=partial(same_expectation, True),
        planted=partial(same_expectation, False),
    ),
    Claim(
        *(45, "000:144", "FID's Gaussian assumption is a systematic error", "exact", "KID 0 as well"),
        measure=partial(equal_moments, 1.0),
        planted=partial(equal_moments, 1.1),
    ),
    Claim(
        *(62, "002:190", "ELBO ≤ log p, tight at the true posterior", "exact", "above, or not tight"),
        measure=partial(tight_bound, 1.0),
        planted=partial(tight_bound, 0.5),
    ),
)

"""Distances between two sets of images by the features that a network finds in them.

The Fréchet distance (FID; rFID between images and their reconstructions) compares the two means and covariances; the
kernel distance (KID) needs no Gaussian. Both depend on the network: compare numbers of the same one only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 1024
_PARTS = 4
_LEAST_PIVOT = 1e-5  # over the largest


class FeatureMoments:
    """Count, mean and covariance of features that arrive in batches, in float64.

    Batches are merged by Chan, Golub and LeVeque's update ("Algorithms for computing the sample variance", 1983), which
    loses no digits where the mean is large beside the spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Takes in `features` [B, F]; ValueError unless they are finite and as many as before."""
        if features.dim() != 2 or (self.count and features.shape[1] != len(self.mean)):
            expected = len(self.mean) if self.count else "F"
            raise ValueError(f"features must be [B, {expected}], got {list(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("features must be finite")
        if len(features) == 0:
            return
        features = features.double()
        mean = features.mean(0)
        centred = features - mean
        scatter = centred.T @ centred
        if self.count:
            total = self.count + len(features)
            shift = mean - self.mean
            scatter += self._scatter + shift.outer(shift) * (self.count * len(features) / total)
            mean = self.mean + shift * (len(features) / total)
        self.count, self.mean, self._scatter = self.count + len(features), mean, scatter

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance, float64 [F, F]; ValueError for fewer than two images."""
        if self.count < 2:
            raise ValueError(f"a covariance needs the features of at least 2 images, got {self.count}")
        return self._scatter / (self.count - 1)


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½), the squared 2-Wasserstein distance of two Gaussians.

    Σ_a Σ_b is not symmetric, and its root by Schur's method leaves imaginary parts to guess about. The trace is also
    the sum of the singular values of AᵀB, with Σ_a = AAᵀ and Σ_b = BBᵀ, which takes no root of a rounding error.

    Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017.
    """
    first, second = a.covariance, b.covariance
    cross = torch.linalg.svdvals(_factor(first).T @ _factor(second)).sum()
    spread = first.trace() + second.trace() - 2 * cross
    # Rounding may leave the distance of a set from itself just under 0.
    return max(float((a.mean - b.mean).square().sum() + spread), 0.0)


def frechet_distance_at_infinity(real: Tensor, made: Tensor, *, seed: int = 0) -> float:
    """The Fréchet distance of the laws behind features `real` [M, F] and `made` [N, F], not of these samples.

    A covariance of N pictures raises the distance by about c / N. Both sets are cut into 1, 2, 3 and 4 random parts of
    equal size; the means of the parts' distances lie on a line in 1 / N, which is followed to 0. The line holds where
    each part has several times as many pictures as features; with fewer, the result is too high still.

    ValueError for sets that cannot be cut into 4 parts of 2, of two sizes F, or not finite. seed: of the cuts.

    Source: Chong and Forsyth, "Effectively unbiased FID and Inception score and where to find them", 2020.
    """
    if real.dim() != 2 or made.dim() != 2 or real.shape[1] != made.shape[1] or min(len(real), len(made)) < 2 * _PARTS:
        raise ValueError(
            f"real and made must be [M ≥ {2 * _PARTS}, F] and [N ≥ {2 * _PARTS}, F], got {list(real.shape)} and "
            f"{list(made.shape)}"
        )
    generator = torch.Generator().manual_seed(seed)
    real, made = (some[torch.randperm(len(some), generator=generator).to(some.device)] for some in (real, made))
    counts = torch.arange(1, _PARTS + 1, dtype=torch.float64)
    means = []
    for count in range(1, _PARTS + 1):
        parts = zip(_cut(real, count), _cut(made, count), strict=True)
        means.append(sum(frechet_distance(_moments(a), _moments(b)) for a, b in parts) / count)
    design = torch.stack((torch.ones_like(counts), counts), 1)
    return float(torch.linalg.lstsq(design, torch.tensor(means, dtype=torch.float64)[:, None]).solution[0])


def _cut(features: Tensor, count: int) -> tuple[Tensor, ...]:
    size = len(features) // count
    return features[: size * count].split(size)


def _moments(features: Tensor) -> FeatureMoments:
    found = FeatureMoments()
    for some in features.split(_BLOCK):
        found.add(some)
    return found


def _factor(covariance: Tensor) -> Tensor:
    """A with A·Aᵀ = Σ, of a positive semi-definite matrix Σ: Cholesky's, or a root where Σ is nearly singular."""
    found, failed = torch.linalg.cholesky_ex(covariance)
    pivots = found.diagonal()
    if not failed and pivots.min() > _LEAST_PIVOT * pivots.max():
        return found
    values, vectors = torch.linalg.eigh(covariance)
    # What is below rounding is 0 in truth, where there are fewer images than features.
    values = values.where(values > len(values) * torch.finfo(values.dtype).eps * values[-1], 0.0)
    return vectors * values.sqrt()


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy between features `a` [N, F] and `b` [M, F].

    The kernel is (x·y/F + 1)³. All pairs count, so that there are no random subsets; the estimate may be negative.

    Raises ValueError for fewer than two images in a set.

    Source: Bińkowski et al., "Demystifying MMD GANs", 2018.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"a and b must be [N ≥ 2, F] and [M ≥ 2, F], got {list(a.shape)} and {list(b.shape)}")
    a, b = a.double(), b.double()
    within = sum((_kernel_sum(x, x) - _kernel_diagonal(x)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return within - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def distances(features: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The Fréchet and the kernel distance between two sets of images, whose features [B, F] come as pairs of batches.

    What these raise.
    """
    one, other = FeatureMoments(), FeatureMoments()
    for some, others in features:
        one.add(some)
        other.add(others)
    first, second = (torch.cat(side) for side in zip(*features, strict=True))
    return frechet_distance(one, other), kernel_distance(first, second)


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    return sum(float((rows @ b.T / b.shape[1] + 1).pow(3).sum()) for rows in a.split(_BLOCK))


def _kernel_diagonal(x: Tensor) -> float:
    return float((x.square().mean(1) + 1).pow(3).sum())

"""What a network finds in pictures, and what may be compared: features of one network alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from .fid import FeatureMoments, frechet_distance, frechet_distance_at_infinity, kernel_distance
from .intervals import bootstrap_interval
from .neighbours import prdc

_LEAST_FOR_A_LINE = 4  # pictures a feature, in each of the parts of the line's end
_RESAMPLES = 40


@dataclass(frozen=True)
class Features:
    """A function from pictures [B, C, H, W] in [−1, 1] to features [B, size].

    name: for people. digest: of the function's weights or code; features of two digests are never compared. whitened:
    whether sets are compared after the reference set's features were made uncorrelated with variance 1, so that no
    feature counts for its scale alone.
    """

    name: str
    digest: str
    size: int
    embed: Callable[[Tensor], Tensor]
    whitened: bool = False

    @torch.no_grad()
    def of(self, batches: Iterable[Tensor]) -> FeatureSet:
        """The features of all pictures; ValueError unless they are [B, size] and finite, and there is a picture."""
        found = []
        for pictures in batches:
            features = self.embed(pictures).double().cpu()
            if features.shape != (len(pictures), self.size):
                raise ValueError(f"{self.name} must give [{len(pictures)}, {self.size}], gave {list(features.shape)}")
            if not features.isfinite().all():
                raise ValueError(f"{self.name} must give finite features")
            found.append(features)
        if not found:
            raise ValueError("there must be at least one picture")
        return FeatureSet(torch.cat(found), self)


@dataclass(frozen=True)
class FeatureSet:
    """Features `values` [N, F] in float64 on the CPU, and what they are features of."""

    values: Tensor
    features: Features


@dataclass(frozen=True)
class Estimate:
    """A measure and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetDistances:
    """How far a set of pictures is from a reference set, by the features `name` with this `digest`.

    at_infinity: the Fréchet distance at infinity; None where there are fewer than 16 pictures a feature, since its line
    would not hold.
    """

    name: str
    digest: str
    reference: int
    pictures: int
    frechet_distance: Estimate
    at_infinity: Estimate | None
    kernel_distance: Estimate
    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def compare_sets(reference: FeatureSet, made: FeatureSet, *, seed: int = 0) -> SetDistances:
    """All measures of two sets, each with its interval, from features of one network.

    ValueError for features of two networks, and for fewer than 12 pictures in a set: halves must have more than the
    five neighbours that `prdc` looks for.
    """
    one, other = reference.features, made.features
    if one.digest != other.digest:
        raise ValueError(
            f"sets must be compared by features of one network, got {one.name} ({one.digest[:12]}) and {other.name} "
            f"({other.digest[:12]})"
        )
    for name, some in (("reference", reference), ("made", made)):
        if len(some.values) < 12:
            raise ValueError(f"{name} must be of at least 12 pictures, got {len(some.values)}")
    a, b = reference.values, made.values
    if one.whitened:
        a, b = whitened(a, a), whitened(b, a)
    long = min(len(a), len(b)) >= 4 * _LEAST_FOR_A_LINE * one.size

    def measures(real: Tensor, fake: Tensor) -> list[float]:
        at_infinity = frechet_distance_at_infinity(real, fake) if long else 0.0
        distances = frechet_distance(_moments(real), _moments(fake)), at_infinity, kernel_distance(real, fake)
        return [*distances, *astuple(prdc(real, fake))]

    intervals = bootstrap_interval(measures, a, b, resamples=_RESAMPLES, seed=seed)
    found = [Estimate(value, *ends) for value, ends in zip(measures(a, b), intervals, strict=True)]  # type: ignore[misc]
    return SetDistances(one.name, one.digest, len(a), len(b), found[0], found[1] if long else None, *found[2:])


def whitened(values: Tensor, reference: Tensor) -> Tensor:
    """`values` [N, F] in coordinates in which `reference` [M, F] is uncorrelated, with mean 0 and variance 1.

    Directions in which the reference doesn't vary, within rounding, are left out: [N, rank].
    """
    moments = _moments(reference)
    scales, vectors = torch.linalg.eigh(moments.covariance)
    kept = scales > len(scales) * torch.finfo(scales.dtype).eps * scales[-1]
    return (values - moments.mean) @ (vectors[:, kept] / scales[kept].sqrt())


def _moments(features: Tensor) -> FeatureMoments:
    found = FeatureMoments()
    found.add(features)
    return found

"""Claims about known distributions, measured on samples: nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from visgen_fast.evaluation import FeatureMoments, frechet_distance, frechet_distance_at_infinity, prdc

from .claim import Claim, Row
from .mixture import Mixture

_SEEDS = range(3)
_WIDE = Mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64), 0.8, torch.tensor([0.5, 0.5]).double())


def _guided(scale: float, seed: int, count: int = 1000, steps: int = 100) -> Tensor:
    """Points of class 1 along the guided flow u + s·(c − u), with the exact velocities of a mixture."""
    of_class = Mixture(_WIDE.means[1:], _WIDE.std, torch.ones(1, dtype=torch.float64))
    x = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        t = 1 - step / steps
        free = _WIDE.velocity(x, t)
        x = x - (free + scale * (of_class.velocity(x, t) - free)) / steps
    return x


def _divergence(made: Tensor, real: Tensor) -> float:
    """KL(made ‖ real) in nats, from the distances to fifth neighbours (Wang, Kulkarni and Verdú, 2009)."""
    within = torch.cdist(made, made).kthvalue(6, 1).values
    across = torch.cdist(made, real).kthvalue(5, 1).values
    return float(made.shape[1] * (across / within).log().mean() + math.log(len(real) / (len(made) - 1)))


def guidance() -> Sequence[Row]:
    """Guidance 3 against none: certainty of the class, divergence from the class's law, recall of that."""
    found: dict[str, list[float]] = {"certainty": [], "divergence": [], "recall": []}
    for seed in _SEEDS:
        noise = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))
        real = _WIDE.means[1] + _WIDE.std * noise
        plain, strong = (_guided(scale, seed) for scale in (1.0, 3.0))
        certainty = [float(_WIDE.log_joint(made).softmax(1)[:, 1].mean()) for made in (plain, strong)]
        found["certainty"].append(certainty[1] - certainty[0])
        found["divergence"].append(_divergence(strong, real) - _divergence(plain, real))
        found["recall"].append(prdc(real, strong).recall - prdc(real, plain).recall)
    return [
        Row("gain in the probability of the class", found["certainty"], "above", 0.0),
        Row("gain in the divergence from the class's law, nats", found["divergence"], "above", 0.0),
        Row("gain in recall", found["recall"], "below", 0.0),
    ]


def pictures_count() -> Sequence[Row]:
    """The Fréchet distance of a fixed sampler by the number of pictures, and that at infinity against the truth."""
    size, spread, slopes, errors = 8, 1.3, [], []
    truth = size * (spread - 1) ** 2
    for seed in _SEEDS:
        generator = torch.Generator().manual_seed(seed)
        real, made = torch.randn(2, 8000, size, dtype=torch.float64, generator=generator)
        made = spread * made
        counts = torch.tensor([250, 500, 1000, 2000, 4000])
        found = torch.tensor([_frechet(real[:n], made[:n]) for n in counts.tolist()], dtype=torch.float64)
        inverse = 1 / counts.double()
        slopes.append(
            float(((inverse - inverse.mean()) * (found - found.mean())).sum() / inverse.var(correction=0) / 5)
        )
        errors.append(abs(frechet_distance_at_infinity(real, made) / truth - 1))
    return [
        Row("slope of the distance in 1/N", slopes, "above", 0.0),
        Row("relative error of the distance at infinity", errors, "below", 0.05),
    ]


def _frechet(real: Tensor, made: Tensor) -> float:
    moments = [FeatureMoments(), FeatureMoments()]
    for one, values in zip(moments, (real, made), strict=True):
        one.add(values)
    return frechet_distance(*moments)


CLAIMS = (
    Claim(
        33, "000:105, 003:361", "guidance departs from likelihood and improves", "statistic", "KL falls", "", guidance
    ),
    Claim(46, "000:144", "FID depends on the number of pictures", "statistic", "slope 0", "", pictures_count),
)

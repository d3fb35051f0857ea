"""Measures of two sets of pictures by nearest neighbours among their features: what is covered, and what is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 1024
_NEIGHBOURS = 5
_RARE = 0.005


@dataclass(frozen=True)
class Prdc:
    """How two sets cover each other.

    precision: the share of made pictures that lie near a real one, nearer than that one's k-th real neighbour. recall:
    the share of real pictures that lie near a made one. density: how many real pictures a made one is near to, over k;
    above 1 where it lies in the thick of them. coverage: the share of real pictures with a made one near to them.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, made: Tensor, *, neighbours: int = 5) -> Prdc:
    """Precision, recall, density and coverage of features `made` [N, F] against `real` [M, F].

    A distance equal to that of the k-th neighbour is not near. Distances are computed in float64 and in blocks, so that
    memory grows with N + M and not with N·M.

    ValueError unless both sets are finite, of one size F, and of more pictures than `neighbours`, which is at least 1.

    Sources: Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", 2019; Naeem et
    al., "Reliable fidelity and diversity metrics for generative models", 2020.
    """
    real, made = _checked({"real": real, "made": made}, neighbours)
    near_real, near_made = (_kth_distances(some, neighbours) for some in (real, made))
    made_in_real = torch.zeros(len(made), dtype=torch.int64, device=made.device)
    recalled, covered = [], []
    for rows, distances in _distances(real, made):
        inside = distances < near_real[rows, None]
        made_in_real += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances < near_made).any(1))
    return Prdc(
        precision=float((made_in_real > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(made_in_real.double().mean()) * (1 / neighbours),
        coverage=float(torch.cat(covered).double().mean()),
    )


@dataclass(frozen=True)
class Copies:
    """Made pictures that are nearer to a training picture than pictures of the same law are.

    share: of all made pictures. expected: the share among held-out pictures, by construction. which: int64, the numbers
    of the made pictures, the surest first. nearest: int64, of the training picture next to each of these.
    """

    share: float
    expected: float
    which: Tensor
    nearest: Tensor


def copies(train: Tensor, made: Tensor, held_out: Tensor) -> Copies:
    """Which of the features `made` [N, F] are copies of `train` [M, F], judged by `held_out` [H, F], not trained on.

    A picture's distance to its nearest training picture counts in units of that one's distance to its own fifth
    neighbour in training, since some kinds of picture are alike by nature. It is a copy where only 0.5% of the held-out
    pictures, or none, are as near. With fewer than 200 held-out pictures that limit is only roughly known.

    ValueError unless all sets are finite, of one size F, and of more than five pictures.
    """
    train, made, held_out = _checked({"train": train, "made": made, "held_out": held_out}, _NEIGHBOURS)
    scale = _kth_distances(train, _NEIGHBOURS)
    (ratios, nearest), (usual, _) = (_relative(some, train, scale) for some in (made, held_out))
    limit = usual.sort().values[int(_RARE * len(usual))]
    which = (ratios < limit).nonzero().flatten()
    which = which[ratios[which].argsort(stable=True)]
    return Copies(len(which) / len(made), float((usual < limit).double().mean()), which.cpu(), nearest[which].cpu())


def _relative(some: Tensor, train: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the nearest training picture over its scale, and its number; 0 for an equal one."""
    found = [distances.min(1) for _, distances in _distances(some, train)]
    distance, nearest = (torch.cat([getattr(one, part) for one in found]) for part in ("values", "indices"))
    return torch.where(distance > 0, distance / scale[nearest], 0.0), nearest


def _kth_distances(features: Tensor, neighbours: int) -> Tensor:
    """The distance of each picture to its k-th nearest other one."""
    found = []
    for rows, distances in _distances(features, features):
        distances[torch.arange(len(distances), device=distances.device), rows] = torch.inf
        found.append(distances.kthvalue(neighbours, 1).values)
    return torch.cat(found)


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of a, int64, and their distances to all of b, a block at a time."""
    squares = b.square().sum(1)
    for rows in torch.arange(len(a), device=a.device).split(_BLOCK):
        some = a[rows]
        yield rows, (some.square().sum(1, keepdim=True) + squares - 2 * some @ b.T).clamp_min_(0).sqrt_()


def _checked(sets: dict[str, Tensor], neighbours: int) -> list[Tensor]:
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    size = next(iter(sets.values())).shape[-1]
    for name, some in sets.items():
        if some.dim() != 2 or some.shape[1] != size or len(some) <= neighbours:
            raise ValueError(f"{name} must be [N > {neighbours}, {size}], got {list(some.shape)}")
        if not some.isfinite().all():
            raise ValueError(f"{name} must be finite")
    return [some.double() for some in sets.values()]

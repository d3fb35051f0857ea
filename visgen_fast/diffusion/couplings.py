"""Which image is paired with which endpoint: couplings of two batches."""

from __future__ import annotations

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check

_SWEEPS = 50  # in each of which everyone may swap endpoints with one other


@torch.no_grad()
def optimal(
    x: Tensor,
    endpoint: Tensor,
    *,
    labels: Tensor | None = None,
    regularization: float = 0.0,
    seeds: Tensor | None = None,
) -> Tensor:
    """The endpoint of each x, as a permutation: endpoint[permutation] are the endpoints, each taken once.

    Without regularization the sum of ‖x_i − endpoint_i‖² over all pairs is the smallest that there is: the optimal
    transport between the two batches. With it a permutation is drawn, with a probability proportional to
    exp(−sum / regularization), by swaps that begin at the best one; with 2σ² it is what a Brownian bridge of that σ
    wants. The more samples, the nearer to the entropic plan. Marginals stay what they are either way.

    Args:
        x, endpoint: [B, …] of one shape, floating-point.
        labels: int64 [B] of both: pairs never cross labels, for a conditional model would learn a wrong path.
        regularization: of the entropy, at least 0.
        seeds: int64 [B], which regularization draws from.

    Returns:
        int64 [B], on the device of x. Pairs do not depend on the order of the batch.

    Raises:
        TypeError, ValueError: an argument of another kind or shape, fewer than two samples, a negative regularization,
            or one without seeds.

    Sources: Pooladian et al., "Multisample flow matching", 2023; Tong et al., "Improving and generalizing flow-based
    generative models with minibatch optimal transport", 2024. Harchaoui, Liu and Pal, "Asymptotics of discrete
    Schrödinger bridges", 2020, for the draws.
    """
    _check(x, endpoint, labels, regularization, seeds)
    cost = torch.cdist(x.flatten(1).double(), endpoint.flatten(1).double()).square()
    permutation = torch.arange(len(x), device=x.device)
    groups = torch.zeros_like(permutation) if labels is None else labels
    for label in groups.unique().tolist():
        inside = (groups == label).nonzero().squeeze(1)
        permutation[inside] = inside[_best(cost[inside][:, inside])]
    if regularization > 0:
        assert seeds is not None  # as was checked
        return _drawn(cost, permutation, groups, regularization, seeds)
    return permutation


def _best(cost: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(cost.device)


def _drawn(cost: Tensor, chosen: Tensor, groups: Tensor, regularization: float, seeds: Tensor) -> Tensor:
    """Metropolis: in each sweep everyone meets one other of the group, and the two may swap their endpoints."""
    sorted_groups = groups.sort().values
    place = torch.arange(len(chosen), device=chosen.device) - torch.searchsorted(sorted_groups, sorted_groups)
    meets = ((place[:-1] % 2 == 0) & (sorted_groups[:-1] == sorted_groups[1:])).nonzero().squeeze(1)
    for sweep in range(_SWEEPS):
        turn, chance = ops.uniform(seeds, (2,), stream=ops.Purpose.COUPLING.stream(sweep)).double().unbind(1)
        order = turn.argsort()
        order = order[groups[order].argsort(stable=True)]
        one, other = order[meets], order[meets + 1]
        mine, yours = chosen[one], chosen[other]
        change = cost[one, yours] + cost[other, mine] - cost[one, mine] - cost[other, yours]
        swap = -regularization * chance[one].log() >= change
        chosen[one], chosen[other] = torch.where(swap, yours, mine), torch.where(swap, mine, yours)
    return chosen


def _check(x: Tensor, endpoint: Tensor, labels: Tensor | None, regularization: float, seeds: Tensor | None) -> None:
    check_ends(x, endpoint)
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 samples to be coupled, got {len(x)}")
    check.real(regularization, "regularization", 0)
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"labels must be one for each of the {len(x)} samples, got shape {list(labels.shape)}")
    if seeds is not None:
        check.seeds(seeds, len(x), x.device)
    elif regularization > 0:
        raise ValueError("seeds must be given where regularization is above 0: the coupling is drawn from them")


def check_ends(x: Tensor, endpoint: Tensor) -> None:
    """TypeError or ValueError unless both are floating-point, and of one shape [B, …]."""
    for name, end in (("x", x), ("endpoint", endpoint)):
        check.floats(end, name)
    if x.shape != endpoint.shape or x.dim() == 0:
        raise ValueError(f"x and endpoint must have one shape [B, …], got {list(x.shape)} and {list(endpoint.shape)}")

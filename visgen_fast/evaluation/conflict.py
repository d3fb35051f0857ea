"""Whether the noise levels of a diffusion model are in each other's way: their gradients, and what they learn together.

A task is an interval of λ. What it contributes to the objective is ∫ p(λ)·loss(λ) dλ over the interval, as training
draws and weighs its levels: the tasks of a partition add up to the whole objective. No label is dropped here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import ops
from ..data.images import AT_A_TIME
from ..data.order import EndlessPermutation
from ..diffusion.objective import DiffusionObjective
from ..nn.conditions import AnyCondition
from .measuring import Pictures, apart, edges_of

_GROUPS = 8
_COLUMNS = 1 << 18  # of gradients, in one product
_BATCH = 32


@dataclass(frozen=True)
class GradientCosines:
    """How the gradients of K intervals of λ lie to each other, float64 [K, K] on the CPU.

    cosines: 1 on the diagonal. Those of estimated gradients, they may lie outside [−1, 1] by their error; NaN where a
    gradient is within two standard errors of 0. standard_errors: of the cosines. gram: the inner products, without
    bias; their sum is the squared norm of the whole gradient.
    """

    cosines: Tensor
    standard_errors: Tensor
    gram: Tensor


def gradient_cosines(
    model: nn.Module,
    objective: DiffusionObjective,
    pictures: Tensor,
    labels: AnyCondition,
    grid: Tensor | Sequence[float],
    *,
    seeds: Tensor,
) -> GradientCosines:
    """The cosines between the gradients of intervals of λ.

    The noise of two gradients pulls their cosine to 0. So an inner product is never taken of gradients that saw the
    same picture: the pictures are split into two halves, and ⟨g_j, g_k⟩ is ½(⟨g_j^A, g_k^B⟩ + ⟨g_j^B, g_k^A⟩), without
    bias, in the numerator and under the root. Here it is the mean over all ways to split eight groups of the pictures;
    standard errors are those of the jackknife, which leaves out one group at a time.

    Args:
        model: a module, as of `loss_by_level`; all its parameters that require a gradient count.
        objective: what it was trained by.
        pictures, labels, seeds: as of `loss_by_level`, at least eight. A picture's levels and noise are its seed's.
        grid: the K + 1 edges of the intervals, rising.

    Raises:
        ValueError: edges that do not rise or lie beyond the schedule's ends, too few pictures, nothing to train.
    """
    edges, all_pictures = edges_of(grid, objective), Pictures(pictures, labels, seeds)
    each = len(all_pictures) // _GROUPS
    if each < 1:
        raise ValueError(f"pictures must be at least {_GROUPS}, got {len(all_pictures)}")
    with apart(model) as copied, torch.enable_grad():
        parameters = trainable(copied)
        gradients = [
            _gradient(copied, parameters, objective, all_pictures.at(slice(group, each * _GROUPS, _GROUPS)), interval)
            for group in range(_GROUPS)
            for interval in _intervals(edges)
        ]
    products = _products(gradients).view(_GROUPS, len(edges) - 1, _GROUPS, len(edges) - 1)
    return cosines_of(products)


def cosines_of(products: Tensor) -> GradientCosines:
    """The summary of all inner products [G, K, G, K] of K gradients, each estimated on G groups of pictures."""
    groups = len(products)
    gram = _gram(products)
    without = [torch.tensor([other for other in range(groups) if other != group]) for group in range(groups)]
    grams = torch.stack([_gram(products[kept][:, :, kept]) for kept in without])
    found = gram.diagonal() > 2 * _jackknife(grams).diagonal()
    known = found[:, None] & found[None, :]
    return GradientCosines(
        _cosines(gram).where(known, torch.nan), _jackknife(_cosines(grams)).where(known, torch.nan), gram
    )


@dataclass(frozen=True)
class Transfer:
    """What tuning on some levels does to others, float64 on the CPU, all by the logarithm of a loss over that before.

    log_ratios: [K, K]; row k, column j: the loss of interval k after tuning on j alone. Below 0 it helps, above 0 it
    harms. together: [K], after tuning on all levels as training draws them, as many steps.
    """

    log_ratios: Tensor
    together: Tensor


def transfer(
    model: nn.Module,
    objective: DiffusionObjective,
    pictures: Tensor,
    labels: AnyCondition,
    grid: Tensor | Sequence[float],
    *,
    seeds: Tensor,
    steps: int,
    learning_rate: float,
) -> Transfer:
    """Tunes copies of `model` on one interval of λ each, and on all of them, and measures the loss of every interval.

    Every other picture is tuned on, in batches of 32, by Adam with fresh noise and a learning rate that falls linearly
    to 0; the others are measured, with the same noise and levels each time. All copies see the same pictures in the
    same order.

    Args:
        model, objective, pictures, labels, grid, seeds: as of `gradient_cosines`; at least two pictures.
        steps: of each tuning, at least 1. learning_rate: at the beginning, positive.

    Raises:
        ValueError: as of `gradient_cosines`, and for an interval in which the objective draws no level.
    """
    edges, all_pictures = edges_of(grid, objective), Pictures(pictures, labels, seeds)
    if len(all_pictures) < 2 or steps < 1 or not learning_rate > 0:
        raise ValueError(
            "there must be at least 2 pictures, 1 step and a positive learning_rate, got "
            f"{len(all_pictures)}, {steps} and {learning_rate}"
        )
    tuned, measured = all_pictures.at(slice(0, None, 2)), all_pictures.at(slice(1, None, 2))
    intervals = _intervals(edges)
    with apart(model) as copied, torch.enable_grad():
        before = _losses(copied, objective, measured, intervals)
        if not (before > 0).all():
            raise ValueError(f"grid must hold intervals with a loss in each, got {before.tolist()} in {edges.tolist()}")
        after = []
        for interval in (*intervals, None):
            with apart(copied) as network:
                _tune(network, objective, tuned, interval, steps, learning_rate)
                after.append(_losses(network, objective, measured, intervals))
    log_ratios = (torch.stack(after) / before).log()
    return Transfer(log_ratios[:-1].T, log_ratios[-1])


def trainable(model: Callable[..., Tensor]) -> list[nn.Parameter]:
    """The parameters that require a gradient; ValueError for none."""
    parameters = [one for one in model.parameters() if one.requires_grad] if isinstance(model, nn.Module) else []
    if not parameters:
        raise ValueError("model must be a module with parameters that require a gradient")
    return parameters


def _intervals(edges: Tensor) -> list[tuple[float, float]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _shares(seeds: Tensor) -> Tensor:
    """Numbers in [0, 1), one a seed, spread evenly in an order that the seeds make: float64 [N]."""
    drawn = ops.uniform(seeds, (2,), stream=ops.Purpose.TIME.stream(), dtype=torch.float64)
    return (drawn[:, 0].argsort().argsort() + 1 - drawn[:, 1]) / len(seeds)


def _contributions(
    model: Callable[..., Tensor],
    objective: DiffusionObjective,
    some: Pictures,
    shares: Tensor,
    interval: tuple[float, float],
) -> Tensor:
    """Losses [N] whose mean is what the interval contributes to the objective, each at a share of the interval."""
    low, high = interval
    log_snr = low + (high - low) * shares
    density = objective.level_density(log_snr) * (high - low)
    t = objective.schedule.time(log_snr).clamp(0, 1).float()
    return density.float() * objective.losses_at(model, some.x, some.labels, some.seeds, t)


def _gradient(
    model: Callable[..., Tensor],
    parameters: Sequence[nn.Parameter],
    objective: DiffusionObjective,
    pictures: Pictures,
    interval: tuple[float, float],
) -> Tensor:
    """The gradient of the interval's contribution on these pictures, flat."""
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), device=parameters[0].device)
    for some, shares in zip(pictures.chunks(), _shares(pictures.seeds).split(AT_A_TIME), strict=True):
        loss = _contributions(model, objective, some, shares, interval).sum() / len(pictures)
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        total += torch.cat([gradient.flatten().float() for gradient in found])
    return total


def _products(gradients: Sequence[Tensor]) -> Tensor:
    """All inner products, float64 on the CPU."""
    flat = torch.stack([*gradients])
    return sum((some @ some.T for some in (part.cpu().double() for part in flat.split(_COLUMNS, 1))), torch.zeros(()))


def _gram(products: Tensor) -> Tensor:
    """[K, K] of [G, K, G, K]: the mean over pairs of different groups."""
    groups = len(products)
    pairs = products.sum((0, 2)) - torch.einsum("gjgk->jk", products)
    return (pairs + pairs.T) / (2 * groups * (groups - 1))


def _cosines(gram: Tensor) -> Tensor:
    squares = gram.diagonal(dim1=-2, dim2=-1)
    return gram / (squares[..., :, None] * squares[..., None, :]).sqrt()


def _jackknife(without: Tensor) -> Tensor:
    """The standard error of a number from its values [G, ...] without each group."""
    groups = len(without)
    return ((without - without.mean(0)).square().sum(0) * (groups - 1) / groups).sqrt()


def _losses(
    model: Callable[..., Tensor],
    objective: DiffusionObjective,
    pictures: Pictures,
    intervals: Sequence[tuple[float, float]],
) -> Tensor:
    """What each interval contributes to the objective on these pictures, float64 [K]."""
    shares = _shares(pictures.seeds)
    found = torch.zeros(len(intervals), dtype=torch.float64)
    with torch.no_grad():
        for place, interval in enumerate(intervals):
            for some, of_some in zip(pictures.chunks(), shares.split(AT_A_TIME), strict=True):
                found[place] += _contributions(model, objective, some, of_some, interval).double().sum().cpu()
    return found / len(pictures)


def _tune(
    model: Callable[..., Tensor],
    objective: DiffusionObjective,
    pictures: Pictures,
    interval: tuple[float, float] | None,
    steps: int,
    learning_rate: float,
) -> None:
    """Trains the model on the interval, or with None as the objective does."""
    parameters = trainable(model)
    optimizer = torch.optim.Adam(parameters, learning_rate, betas=(0.9, 0.99))
    order = EndlessPermutation(len(pictures), seed=0)
    share = 1.0 if interval is None else _share(objective, interval)
    for step in range(steps):
        positions = torch.arange(step * _BATCH, (step + 1) * _BATCH)
        some = pictures.at(order(positions))
        positions = positions.to(some.seeds.device)
        some = replace(some, seeds=ops.derive_seeds(some.seeds, positions))
        if interval is None:
            t = objective.times(some.seeds, positions)
            losses = objective.losses_at(model, some.x, some.labels, some.seeds, t)
        else:
            losses = _contributions(model, objective, some, _shares(some.seeds), interval) / share
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        # A schedule or a weight that learns gets no gradient.
        gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


def _share(objective: DiffusionObjective, interval: tuple[float, float]) -> float:
    """How often training draws a level of the interval."""
    low, high = interval
    return float(objective.level_density(torch.linspace(low, high, 65, dtype=torch.float64)).mean() * (high - low))

"""Whether the sub-tasks of a model are in each other's way: their gradients, and what they learn together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import _check as check
from .. import ops
from ..data.images import AT_A_TIME
from ..data.order import EndlessPermutation
from ..diffusion.objective import DiffusionObjective
from ..nn.conditions import AnyCondition
from .measuring import Pictures, apart
from .subtasks import NoiseLevels, Subtasks, spread_of

GROUPS = 8
_COLUMNS = 1 << 18  # of gradients, in one product
_BATCH = 32


@dataclass(frozen=True)
class GradientCosines:
    """How the gradients of K sub-tasks lie to each other, float64 [K, K] on the CPU.

    cosines: 1 on the diagonal. Those of estimated gradients, they may lie outside [−1, 1] by their error; NaN where a
    gradient is within two standard errors of 0. standard_errors: of the cosines. gram: the inner products, without
    bias; their sum is the squared norm of the whole gradient. mean, mean_error: of the cosines of different sub-tasks
    that are known, and its standard error; NaN for fewer than two.
    """

    cosines: Tensor
    standard_errors: Tensor
    gram: Tensor
    mean: float
    mean_error: float


def gradient_cosines(
    model: nn.Module,
    subtasks: Subtasks | DiffusionObjective,
    pictures: Tensor,
    labels: AnyCondition,
    grid: Tensor | Sequence[float] | None = None,
    *,
    seeds: Tensor,
) -> GradientCosines:
    """The cosines between the gradients of sub-tasks.

    The noise of two gradients pulls their cosine to 0. So an inner product is never taken of gradients that saw the
    same picture: the pictures are split into two halves, and ⟨g_j, g_k⟩ is ½(⟨g_j^A, g_k^B⟩ + ⟨g_j^B, g_k^A⟩), without
    bias, in the numerator and under the root. Here it is the mean over all ways to split eight groups of the pictures;
    standard errors are those of the jackknife, which leaves out one group at a time.

    Args:
        model: a module that the sub-tasks take; all its parameters that require a gradient count.
        subtasks: any decomposition (`evaluation.subtasks`), or what a diffusion model was trained by.
        pictures, labels, seeds: samples, at least eight, as of `loss_by_level` or as the sub-tasks say. What is random
            about a sample is its seed's.
        grid: of a diffusion model, the K + 1 edges of intervals of λ, rising.

    Raises:
        ValueError: edges that do not rise or lie beyond the schedule's ends, too few pictures, nothing to train.
    """
    tasks, all_pictures = subtasks_of(subtasks, grid), Pictures(pictures, labels, seeds)
    each = len(all_pictures) // GROUPS
    if each < 1:
        raise ValueError(f"pictures must be at least {GROUPS}, got {len(all_pictures)}")
    with apart(model) as copied, torch.enable_grad():
        parameters = trainable(copied)
        gradients = [
            _gradient(copied, parameters, tasks, all_pictures.at(slice(group, each * GROUPS, GROUPS)), place)
            for group in range(GROUPS)
            for place in range(len(tasks))
        ]
    return cosines_of(_products(gradients).view(GROUPS, len(tasks), GROUPS, len(tasks)))


def subtasks_of(subtasks: Subtasks | DiffusionObjective, grid: Tensor | Sequence[float] | None) -> Subtasks:
    """The decomposition that is meant: of a diffusion model, intervals of λ with these edges."""
    if isinstance(subtasks, Subtasks) == (grid is not None):
        raise ValueError(
            "grid must be given for a diffusion model, whose sub-tasks are intervals of λ, and for no other"
        )
    return subtasks if isinstance(subtasks, Subtasks) else NoiseLevels(subtasks, grid)  # type: ignore[arg-type]


def cosines_of(products: Tensor) -> GradientCosines:
    """The summary of all inner products [G, K, G, K] of K gradients, each estimated on G groups of pictures."""
    groups = len(products)
    gram = _gram(products)
    without = [torch.tensor([other for other in range(groups) if other != group]) for group in range(groups)]
    grams = torch.stack([_gram(products[kept][:, :, kept]) for kept in without])
    found = gram.diagonal() > 2 * _jackknife(grams).diagonal()
    known = found[:, None] & found[None, :]
    between = known & ~torch.eye(len(gram), dtype=torch.bool)
    means = torch.stack([_cosines(one)[between].mean() for one in (gram, *grams)])
    return GradientCosines(
        _cosines(gram).where(known, torch.nan),
        _jackknife(_cosines(grams)).where(known, torch.nan),
        gram,
        float(means[0]),
        float(_jackknife(means[1:])),
    )


@dataclass(frozen=True)
class Transfer:
    """What tuning on some sub-tasks does to others, float64 on the CPU, by the logarithm of a loss over that before.

    log_ratios: [K, K]; row k, column j: the loss of sub-task k after tuning on j alone. Below 0 it helps, above 0 it
    harms. together: [K], after tuning on all as training draws them, as many steps.
    """

    log_ratios: Tensor
    together: Tensor


def transfer(
    model: nn.Module,
    subtasks: Subtasks | DiffusionObjective,
    pictures: Tensor,
    labels: AnyCondition,
    grid: Tensor | Sequence[float] | None = None,
    *,
    seeds: Tensor,
    steps: int,
    learning_rate: float,
) -> Transfer:
    """Tunes copies of `model` on one sub-task each, and on all of them, and measures the loss of every sub-task.

    Every other picture is tuned on, in batches of 32, by Adam with fresh noise and a learning rate that falls linearly
    to 0; the others are measured, with the same noise and levels each time. All copies see the same pictures in the
    same order.

    Args:
        model, subtasks, pictures, labels, grid, seeds: as of `gradient_cosines`; at least two pictures.
        steps: of each tuning, at least 1. learning_rate: at the beginning, positive and finite.

    Raises:
        TypeError, ValueError: as of `gradient_cosines`, and for a sub-task in which the objective has no loss.
    """
    tasks, all_pictures = subtasks_of(subtasks, grid), Pictures(pictures, labels, seeds)
    if len(all_pictures) < 2 or steps < 1 or not 0 < learning_rate < math.inf:
        raise ValueError(
            "there must be at least 2 pictures, 1 step and a positive learning_rate, got "
            f"{len(all_pictures)}, {steps} and {learning_rate}"
        )
    check.integer(steps, "steps", 1)
    tuned, measured = all_pictures.at(slice(0, None, 2)), all_pictures.at(slice(1, None, 2))
    with apart(model) as copied, torch.enable_grad():
        before = _losses(copied, tasks, measured)
        if not (before > 0).all():
            raise ValueError(f"each sub-task must have a loss, got {before.tolist()} of {', '.join(tasks.names)}")
        after = []
        for place in (*range(len(tasks)), None):
            with apart(copied) as network:
                _tune(network, tasks, tuned, place, steps, learning_rate)
                after.append(_losses(network, tasks, measured))
    log_ratios = (torch.stack(after) / before).log()
    return Transfer(log_ratios[:-1].T, log_ratios[-1])


def trainable(model: Callable[..., Tensor]) -> list[nn.Parameter]:
    """The parameters that require a gradient; ValueError for none."""
    parameters = [one for one in model.parameters() if one.requires_grad] if isinstance(model, nn.Module) else []
    if not parameters:
        raise ValueError("model must be a module with parameters that require a gradient")
    return parameters


def _gradient(
    model: Callable[..., Tensor], parameters: Sequence[nn.Parameter], tasks: Subtasks, pictures: Pictures, place: int
) -> Tensor:
    """The gradient of the sub-task's contribution on these pictures, flat."""
    total = torch.zeros(sum(parameter.numel() for parameter in parameters), device=parameters[0].device)
    for some, spread in zip(pictures.chunks(), spread_of(pictures.seeds).split(AT_A_TIME), strict=True):
        loss = tasks.losses(model, some, spread, place).sum() / len(pictures)
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


def _losses(model: Callable[..., Tensor], tasks: Subtasks, pictures: Pictures) -> Tensor:
    """What each sub-task contributes to the objective on these pictures, float64 [K]."""
    spread = spread_of(pictures.seeds)
    found = torch.zeros(len(tasks), dtype=torch.float64)
    with torch.no_grad():
        for place in range(len(tasks)):
            for some, of_some in zip(pictures.chunks(), spread.split(AT_A_TIME), strict=True):
                found[place] += tasks.losses(model, some, of_some, place).double().sum().cpu()
    return found / len(pictures)


def _tune(
    model: Callable[..., Tensor],
    tasks: Subtasks,
    pictures: Pictures,
    place: int | None,
    steps: int,
    learning_rate: float,
) -> None:
    """Trains the model on the sub-task, or with None as the objective does."""
    parameters = trainable(model)
    optimizer = torch.optim.Adam(parameters, learning_rate, betas=(0.9, 0.99))
    order = EndlessPermutation(len(pictures), seed=0)
    for step in range(steps):
        positions = torch.arange(step * _BATCH, (step + 1) * _BATCH)
        some = pictures.at(order(positions))
        positions = positions.to(some.seeds.device)
        some = replace(some, seeds=ops.derive_seeds(some.seeds, positions))
        if place is None:
            losses = tasks.together(model, some, positions)
        else:
            losses = tasks.losses(model, some, spread_of(some.seeds), place) / float(tasks.shares[place])
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        # A schedule or a weight that learns gets no gradient.
        gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

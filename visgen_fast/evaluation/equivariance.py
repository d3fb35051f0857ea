"""How alike the sub-tasks of a model are: what is learned in one, worth in another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..nn.conditions import AnyCondition
from .conflict import GROUPS, gradient_cosines, transfer
from .features import Estimate
from .measuring import Pictures
from .subtasks import Subtasks


@dataclass(frozen=True)
class Equivariance:
    """How alike K sub-tasks are, by `names`.

    transfer: what tuning on one sub-task does for another one, over what tuning on half of its own samples does for the
    other half: 1 is as good as the same task, 0 is no help, below 0 is harm. pairs: the same of each two, float64
    [K, K], row k after tuning on j; 1 on the diagonal, NaN where tuning on k doesn't help k. cosine: the mean cosine of
    two sub-tasks' gradients, which is 1 for the same task. Intervals hold 95%.
    """

    names: tuple[str, ...]
    transfer: Estimate
    pairs: Tensor
    cosine: Estimate


def equivariance(
    model: nn.Module,
    subtasks: Subtasks,
    pictures: Tensor,
    labels: AnyCondition,
    *,
    seeds: Tensor,
    steps: int,
    learning_rate: float,
    repeats: int = 4,
) -> Equivariance:
    """Measures how alike the sub-tasks of a trained model are, with 95% intervals.

    The transfer is a ratio of sums of gains, −ln of a loss over that before: those in other sub-tasks over those in the
    own one. Each of `repeats` splits the samples anew into those that are tuned on and those that are measured, and
    draws new noise; intervals are of t over them.

    model, subtasks, pictures, labels, seeds: as of `gradient_cosines`, two sub-tasks at least; steps, learning_rate: as
    of `transfer`. ValueError as of these, for fewer than two sub-tasks or repeats, and where tuning on sub-tasks is of
    no use even to themselves: then there is nothing to compare with.
    """
    if len(subtasks) < 2 or repeats < 2:
        raise ValueError(f"there must be at least 2 sub-tasks and 2 repeats, got {len(subtasks)} and {repeats}")
    count, found = len(subtasks), []
    for repeat in range(repeats):
        generator = torch.Generator().manual_seed(repeat)
        order = torch.randperm(len(seeds), generator=generator).to(seeds.device)
        some = Pictures(pictures, labels, ops.derive_seeds(seeds, torch.full_like(seeds, repeat))).at(order)
        tuned = transfer(
            model, subtasks, some.x, some.labels, seeds=some.seeds, steps=steps, learning_rate=learning_rate
        )
        found.append(-tuned.log_ratios)
    gains = torch.stack(found)
    own = gains.diagonal(dim1=1, dim2=2)
    if not (own.sum(1) > 0).all():
        raise ValueError(
            "tuning must help the sub-tasks that are tuned on, and the mean of −ln of their losses over those before "
            f"is {float(own.mean()):.3g}: take other steps, or more samples"
        )
    ratios = (gains.sum((1, 2)) - own.sum(1)) / ((count - 1) * own.sum(1))
    cosines = gradient_cosines(model, subtasks, pictures, labels, seeds=seeds)
    return Equivariance(
        subtasks.names,
        _by_t(ratios),
        gains.mean(0) / own.mean(0).where(own.mean(0) > 0, torch.nan)[:, None],
        _interval(cosines.mean, cosines.mean_error, GROUPS - 1),
    )


def _by_t(values: Tensor) -> Estimate:
    error = float(values.std() / len(values) ** 0.5)
    return _interval(float(values.mean()), error, len(values) - 1)


def _interval(value: float, error: float, degrees: int) -> Estimate:
    from scipy.stats import t as student

    reach = float(student.ppf(0.975, degrees)) * error
    return Estimate(value, value - reach, value + reach)

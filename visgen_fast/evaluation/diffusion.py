"""What a trained diffusion model is worth at each noise level, and whether the levels are in each other's way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..diffusion.densities import Laplace
from ..diffusion.objective import DiffusionObjective
from ..nn.conditions import AnyCondition
from .conflict import GradientCosines, Transfer, gradient_cosines, transfer
from .min_norm import min_norm_weights
from .noise_levels import LossByLevel, importance_weighted_loss, loss_by_level

_SPAN = 10.0  # λ from −10 to 10, or as far as the schedule goes
_SCALES = (1, 2, 4, 8)
_IMPORTANCE = Laplace(0.0, 0.5)


@dataclass(frozen=True)
class DiffusionEvaluation:
    """A diffusion model's measures, tensors float64 on the CPU.

    Attributes:
        images: how many were measured.
        scales: sizes of the windows over which errors are averaged, in `losses`.
        losses: the errors at the edges and in the middle of the intervals.
        level_density, implied_weight: p(λ) and w(λ) of the objective at these levels, the latter up to a factor.
        importance_weighted_loss: that of `losses`, at scale 1, by `Laplace(0, 0.5)`; None where the levels are not
            those of the schedule.
        edges: of the intervals of λ, [K + 1].
        gradients: what they have to do with each other.
        min_norm_weights: `min_norm_weights` of the intervals' gradients, each of norm 1, [K]: the combination that all
            agree to. NaN where a gradient is not told from 0, as in the cosines.
        transfer: what tuning on an interval does to the others; None where it was not asked for.
    """

    images: int
    scales: tuple[int, ...]
    losses: LossByLevel
    level_density: Tensor
    implied_weight: Tensor
    importance_weighted_loss: float | None
    edges: Tensor
    gradients: GradientCosines
    min_norm_weights: Tensor
    transfer: Transfer | None

    @property
    def norms(self) -> Tensor:
        """The intervals' shares of the sum of the gradients' norms, [K]; 0 for those that are not told from 0."""
        squares = self.gradients.gram.diagonal().where(self.gradients.cosines.diagonal().isfinite(), 0.0)
        return squares.sqrt() / squares.sqrt().sum().clamp_min(torch.finfo(squares.dtype).tiny)


def evaluate_diffusion(
    model: nn.Module,
    objective: DiffusionObjective,
    pictures: Tensor,
    labels: AnyCondition,
    *,
    seeds: Tensor,
    bins: int = 8,
    transfer_steps: int = 0,
    learning_rate: float = 1e-4,
) -> DiffusionEvaluation:
    """Measures `model` on `pictures`, in `bins` intervals of λ between −10 and 10, or the schedule's ends.

    Arguments are as of `loss_by_level`; transfer_steps, learning_rate: as of `transfer`, 0 steps for none. ValueError
    for fewer than eight pictures, and for bins that are not 1 to 16.
    """
    low, high = objective.ends()
    edges = torch.linspace(max(low, -_SPAN), min(high, _SPAN), bins + 1, dtype=torch.float64)
    levels = torch.cat((edges, (edges[1:] + edges[:-1]) / 2)).sort().values
    scales = tuple(scale for scale in _SCALES if scale == 1 or (pictures.dim() > 3 and scale <= pictures.shape[-1]))
    losses = loss_by_level(model, objective, pictures, labels, levels, seeds=seeds, scales=scales)
    gradients = gradient_cosines(model, objective, pictures, labels, edges, seeds=seeds)
    tuned = None
    if transfer_steps:
        tuning = {"steps": transfer_steps, "learning_rate": learning_rate}
        tuned = transfer(model, objective, pictures, labels, edges, seeds=seeds, **tuning)  # type: ignore[arg-type]
    return DiffusionEvaluation(
        images=len(pictures),
        scales=scales,
        losses=losses,
        level_density=objective.level_density(levels).cpu(),
        implied_weight=objective.implied_weight(levels).cpu(),
        importance_weighted_loss=_importance(losses),
        edges=edges,
        gradients=gradients,
        min_norm_weights=_agreed(gradients.cosines),
        transfer=tuned,
    )


def _agreed(cosines: Tensor) -> Tensor:
    """The weights of unit gradients in the combination of least norm, NaN for those that are not known."""
    known = cosines.diagonal().isfinite()
    weights = torch.full((len(cosines),), torch.nan, dtype=torch.float64)
    if known.any():
        weights[known] = min_norm_weights(cosines[known][:, known])
    return weights


def _importance(losses: LossByLevel) -> float | None:
    try:
        return float(importance_weighted_loss(losses, _IMPORTANCE)[0])
    except ValueError:
        return None

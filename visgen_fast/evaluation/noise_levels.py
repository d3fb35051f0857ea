"""The errors of a diffusion model at each noise level, comparable whatever schedule, prediction and weight it has.

A level is λ = ln(α²/σ²). Pictures keep their noise from level to level and from model to model, so that what differs is
the level or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..diffusion.densities import Density
from ..diffusion.objective import DiffusionObjective
from ..diffusion.predictions import coefficients, log_error
from ..nn.conditions import AnyCondition
from .measuring import Pictures, apart, levels_of

_SHARES = 4096  # of a density, in an integral over it
_LEAST = 0.01  # of a density, that must lie at the levels measured


@dataclass(frozen=True)
class LossByLevel:
    """Mean square errors by level, float64 on the CPU.

    log_snr: λ, [levels]. epsilon, x: of the noise and of the image that the network's output stands for,
    [levels, scales]; at scale s after the error is averaged over windows of s×s.
    """

    log_snr: Tensor
    epsilon: Tensor
    x: Tensor


@torch.no_grad()
def loss_by_level(
    model: Callable[..., Tensor],
    objective: DiffusionObjective,
    pictures: Tensor,
    labels: AnyCondition,
    grid: Tensor | Sequence[float],
    *,
    seeds: Tensor,
    scales: Sequence[int] = (1,),
) -> LossByLevel:
    """The errors of `model` at the levels `grid`: E‖ε̂ − ε‖² and E‖x̂ − x‖², per pixel.

    Args:
        model: model(x_t, t or λ [B], labels) → [B, ...]. It is called in evaluation mode, and left as it was, as is
            torch's random state.
        objective: what it was trained by, of which the schedule, the prediction and the conditioning count here.
        pictures: [N, ...] in [−1, 1], or uint8 pixels.
        labels: int64 [N], or any condition (`nn.conditions`); none is dropped.
        grid: levels λ within the schedule's ends.
        seeds: int64 [N], of the noise, which is the same at every level.
        scales: sizes s of windows, as of `ops.multiscale_loss`; the error at scale s is that of the picture at 1/s of
            its resolution.

    Raises:
        ValueError: levels that the schedule does not reach, no picture, scales as of `ops.multiscale_loss`.
    """
    levels, all_pictures = levels_of(grid, objective), Pictures(pictures, labels, seeds)
    times = objective.schedule.time(levels)
    alpha, sigma = objective.schedule.alpha(times), objective.schedule.sigma(times)
    rows = coefficients(objective.schedule, objective.prediction, times)
    with apart(model) as copied:
        network = objective.network(copied)
        means = [_errors(network, all_pictures, t, row, scales) for t, row in zip(times.float(), rows, strict=True)]
    of_output = log_error(objective.prediction, alpha, sigma)
    epsilon = torch.stack(means) * (-2 * of_output).exp()[:, None]
    return LossByLevel(levels, epsilon, epsilon * (sigma / alpha).square()[:, None])


def _errors(
    network: Callable[..., Tensor], pictures: Pictures, t: Tensor, row: Tensor, scales: Sequence[int]
) -> Tensor:
    """The mean square errors of the network's output at one level, float64 [scales]."""
    total = torch.zeros(len(scales), dtype=torch.float64)
    t, row = t.to(pictures.seeds.device), row.to(pictures.seeds.device)
    for some in pictures.chunks():
        rows = row.expand(len(some), -1)
        output = network(ops.add_noise(some.x, rows, some.seeds), t.expand(len(some)), some.labels)
        of_scales = ops.denoising_loss(output, some.x, rows, some.seeds, scales=scales, reduction="none", terms=True)[1]
        total += of_scales.sum(0).cpu()
    return total / len(pictures)


def importance_weighted_loss(losses: LossByLevel, density: Density) -> Tensor:
    """∫ p(λ)·E‖ε̂ − ε‖² dλ, with p the `density`, cut at the first and the last level of `losses`: float64 [scales].

    Between two levels the error's logarithm is a line. ValueError where less than a hundredth of the density is there.

    Source: Gu, arXiv 2407.18290, 2024: validation by importance; `Laplace(0, 0.5)` is where images are decided.
    """
    order = losses.log_snr.argsort()
    levels, logs = losses.log_snr[order], losses.epsilon[order].clamp_min(torch.finfo(torch.float64).tiny).log()
    low, high = density.cdf(levels[[0, -1]]).tolist()
    if high - low < _LEAST:
        raise ValueError(f"density must lie at the levels of losses, {levels[0]:g} to {levels[-1]:g}, got {density}")
    shares = low + (high - low) * (torch.arange(_SHARES, dtype=torch.float64) + 0.5) / _SHARES
    drawn = density.quantile(shares).numpy()
    return torch.tensor([np.exp(np.interp(drawn, levels.numpy(), column.numpy())).mean() for column in logs.T])

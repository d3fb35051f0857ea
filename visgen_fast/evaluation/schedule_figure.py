"""The figure of noise schedules: λ(t), p(λ), w(λ), and an image at eight levels of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast import ops

from ..diffusion.objective import DiffusionObjective

_LEVELS = 8
_SHOWN = 12.0  # λ from −12 to 12
_COLOURS = ("#0b6e4f", "#d1495b", "#457b9d", "#edae49", "#6c4f9e", "#3d405b", "#c77dff", "#7f8c2f")


def plot_schedules(objectives: Mapping[str, DiffusionObjective], image: Tensor, out: Path) -> None:
    """Draws the objectives, by the names of their schedules, as the PNG file `out`; `image` is [3, H, W] in [−1, 1]."""
    figure = Figure(figsize=(11, 3.8 + 1.5 * len(objectives)), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(3.8, 1.5 * len(objectives)))
    above, below = halves
    curves = above.subplots(1, 3)
    for number, (name, objective) in enumerate(objectives.items()):
        _curves(curves, name, objective, _COLOURS[number % len(_COLOURS)])
    curves[0].set(
        xlabel="t, from data to noise", ylabel="λ", ylim=(-_SHOWN, _SHOWN), title="log signal-to-noise ratio λ(t)"
    )
    curves[1].set(xlabel="λ", xlim=(-_SHOWN, _SHOWN), ylim=(0, None), title="levels drawn in training, p(λ)")
    curves[2].set(xlabel="λ", xlim=(-_SHOWN, _SHOWN), ylim=(1e-3, 1e3), yscale="log")
    curves[2].set(title="weight of ‖ε − ε̂‖², w(λ), 1 at λ = 0")
    for axes in curves:
        axes.grid(alpha=0.25)
    above.legend(*curves[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    rows = below.subplots(len(objectives), _LEVELS, squeeze=False)
    for row, (name, objective) in zip(rows, objectives.items(), strict=True):
        _images(row, name, objective, image)
    figure.savefig(out, dpi=100)


def _curves(axes: np.ndarray, name: str, objective: DiffusionObjective, colour: str) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = torch.linspace(-_SHOWN, _SHOWN, 1001, dtype=torch.float64)
    weights = objective.implied_weight(log_snr)
    middle = weights[500] if weights[500] > 0 else weights.max()
    monotone = "never rises" if objective.is_monotone() else "rises"
    axes[0].plot(t, objective.schedule.log_snr(t), color=colour, label=name)
    axes[1].plot(log_snr, objective.level_density(log_snr), color=colour)
    axes[2].plot(log_snr, torch.where(weights > 0, weights / middle, torch.nan), color=colour, label=monotone)
    axes[2].legend(title="with λ, w")


def _images(row: np.ndarray, name: str, objective: DiffusionObjective, image: Tensor) -> None:
    schedule = objective.schedule
    noise = ops.gaussian(torch.zeros(1, dtype=torch.int64), image.shape)[0]
    for place, (axes, t) in enumerate(zip(row, torch.linspace(0, 1, _LEVELS, dtype=torch.float64), strict=True)):
        alpha, sigma, log_snr = (of(t).item() for of in (schedule.alpha, schedule.sigma, schedule.log_snr))
        # Where σ grows without end, the eye needs the same range.
        seen = (alpha * image + sigma * noise) / max(1.0, (alpha**2 + sigma**2) ** 0.5)
        _show(axes, seen, f"λ = {log_snr:.1f}" if abs(log_snr) < 100 else f"λ = {'∞' if log_snr > 0 else '−∞'}")
        if place == 0:
            axes.set_ylabel(name.replace(":", ":\n").replace(",", ",\n"), fontsize=9)


def _show(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy())
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])

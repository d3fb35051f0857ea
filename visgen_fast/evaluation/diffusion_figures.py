"""Figures of the evaluation of a diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .diffusion import DiffusionEvaluation

_COLOURS = ("#0b6e4f", "#457b9d", "#edae49", "#d1495b")
_INK = "#222222"


def plot_losses(found: DiffusionEvaluation, out: Path) -> None:
    """Draws errors of ε and x by λ, a line a scale, and what training draws and weighs, as the PNG file `out`."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    of_noise, of_image, of_training = figure.subplots(1, 3)
    levels = found.losses.log_snr
    for axes, errors, name in ((of_noise, found.losses.epsilon, "ε"), (of_image, found.losses.x, "x")):
        for scale, column, colour in zip(found.scales, errors.T, _COLOURS, strict=False):
            label = "each pixel" if scale == 1 else f"averages of {scale}×{scale}"
            axes.plot(levels, column.where(column > 0, torch.nan), marker="o", ms=3.5, color=colour, label=label)
        axes.set(yscale="log", xlabel="λ, from noise to data", ylabel="mean square error", title=f"error of {name}")
        axes.legend()
    for values, name, colour in (
        (found.level_density, "p(λ), levels drawn", _COLOURS[0]),
        (found.implied_weight, "w(λ), weight of ‖ε − ε̂‖²", _COLOURS[1]),
        (found.implied_weight * found.losses.epsilon[:, 0], "w(λ) × error of ε, the objective", _COLOURS[3]),
    ):
        of_training.plot(levels, (values / values.max()).where(values > 0, torch.nan), color=colour, label=name)
    of_training.set(
        yscale="log", ylim=(1e-4, 2), xlabel="λ, from noise to data", title="training, each over its maximum"
    )
    of_training.legend()
    for axes in (of_noise, of_image, of_training):
        axes.grid(alpha=0.25)
    figure.savefig(out, dpi=110)


def plot_gradients(found: DiffusionEvaluation, out: Path) -> None:
    """Draws the cosines between intervals, and how large each interval's gradient is, as the PNG file `out`."""
    names = _names(found.edges)
    figure = Figure(figsize=(6.5 + 0.62 * len(names), 1.8 + 0.62 * len(names)), layout="constrained")
    cosines, sizes = figure.subplots(1, 2, width_ratios=(1.25, 1))
    errors = [
        [f"±{error:.2f}" if math.isfinite(error) and row != column else "" for column, error in enumerate(line)]
        for row, line in enumerate(found.gradients.standard_errors.tolist())
    ]
    _matrix(cosines, found.gradients.cosines, names, names, limit=1.0, harm_is_negative=True, below=errors)
    cosines.set_title("cosine of the gradients of two intervals of λ,\nempty where one is not told from 0")
    places = torch.arange(len(names))
    sizes.barh(places - 0.2, found.norms, height=0.4, color=_COLOURS[1], label="of the gradients' norms")
    sizes.barh(
        places + 0.2,
        found.min_norm_weights.nan_to_num(0.0),
        height=0.4,
        color=_COLOURS[2],
        label="of the combination of unit gradients of least norm",
    )
    sizes.set_yticks(places.tolist(), names)
    sizes.set(ylim=(len(names) - 0.4, -0.6), xlabel="share", title="what each interval contributes")
    figure.legend(*sizes.get_legend_handles_labels(), loc="outside lower right", frameon=False)
    figure.savefig(out, dpi=110)


def plot_transfer(found: DiffusionEvaluation, out: Path) -> None:
    """Draws what tuning on one interval does to each, and what tuning on all does, as the PNG file `out`."""
    assert found.transfer is not None
    names = _names(found.edges)
    ratios = torch.cat((found.transfer.log_ratios, found.transfer.together[:, None]), 1)
    figure = Figure(figsize=(3.2 + 0.8 * (len(names) + 1), 2.2 + 0.62 * len(names)), layout="constrained")
    axes = figure.subplots()
    limit = max(float(ratios.abs().nan_to_num(0.0).max()), 0.01)
    _matrix(axes, ratios, names, [*names, "all"], limit=limit, harm_is_negative=False)
    axes.axvline(len(names) - 0.5, color=_INK, linewidth=1)
    axes.set(xlabel="tuned on λ", ylabel="loss at λ", title="logarithm of the loss after tuning, over that before")
    figure.savefig(out, dpi=110)


def _names(edges: Tensor) -> list[str]:
    return [f"{low:g}…{high:g}" for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]


def _matrix(
    axes: Axes,
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limit: float,
    harm_is_negative: bool,
    below: Sequence[Sequence[str]] | None = None,
) -> None:
    """Numbers as colours from −limit to limit, harm in red and help in blue, with the texts `below` under them."""
    colours = "RdBu" if harm_is_negative else "RdBu_r"
    axes.imshow(values.clamp(-limit, limit).numpy(), cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            if not math.isfinite(value):
                continue
            under = below[row][column] if below else ""
            style: Any = {"ha": "center", "va": "center", "color": "white" if abs(value) > 0.6 * limit else _INK}
            axes.text(column, row - (0.15 if under else 0), f"{round(value, 2) + 0.0:+.2f}", fontsize=9, **style)
            axes.text(column, row + 0.22, under, fontsize=7, **style)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)

"""The evaluation of a diffusion model as files and as lines of text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .diffusion import DiffusionEvaluation
from .diffusion_figures import plot_gradients, plot_losses, plot_transfer


def write(found: DiffusionEvaluation, out: Path, head: Mapping[str, Any]) -> None:
    """Writes evaluation.json, `head` and the measures, then loss_by_level.png, gradients.png, and transfer.png."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps({**head, **as_json(found)}, indent=1) + "\n")
    plot_losses(found, out / "loss_by_level.png")
    plot_gradients(found, out / "gradients.png")
    if found.transfer is not None:
        plot_transfer(found, out / "transfer.png")


def as_json(value: Any) -> Any:
    """Dataclasses and mappings as objects, and tensors as arrays, with null for what is no finite number."""
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, Tensor):
        return as_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(found: DiffusionEvaluation) -> str:
    """The measures for a terminal: a line an interval of λ."""
    lines: list[tuple[str, ...]] = [("λ", "error of ε", "of x", "norm", "agreed", "least cosine")]
    cosines, norms = found.gradients.cosines, found.norms.where(found.norms > 0, torch.nan)
    for place in range(len(found.edges) - 1):
        others = [float(cosine) for column, cosine in enumerate(cosines[place]) if column != place]
        known = [cosine for cosine in others if math.isfinite(cosine)]
        low, high = found.edges[place : place + 2].tolist()
        lines.append(
            (
                f"{low:.1f} to {high:.1f}",
                *(f"{float(errors[2 * place + 1, 0]):.3g}" for errors in (found.losses.epsilon, found.losses.x)),
                _share(float(norms[place])),
                _share(float(found.min_norm_weights[place])),
                f"{min(known):+.2f}" if known else "–",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    importance = found.importance_weighted_loss
    weighed = [] if importance is None else [f"importance-weighted loss: {importance:.4g}"]
    legend = "norm: share of the gradients' norms; agreed: share in the combination of unit gradients of least norm"
    return "\n".join([*table, legend, *weighed])


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"

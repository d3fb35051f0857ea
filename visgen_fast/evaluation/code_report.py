"""The evaluation of a model of codes as files and as lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .codes import CodeEvaluation
from .diffusion_report import as_json

_COLOUR = "#457b9d"


def write(found: CodeEvaluation, maps: Sequence[Tensor], out: Path, head: Mapping[str, Any]) -> None:
    """Writes evaluation.json, `head` and the measures, and bits.png, with the maps [rows, columns] of the bits."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps({**head, **as_json(found)}, indent=1) + "\n")
    plot_bits(found, maps, out / "bits.png")


def as_text(found: CodeEvaluation) -> str:
    """The measures for a terminal."""
    rows = {"bits per image": f"{found.bits_per_image:.2f}", "bits per code": f"{found.bits_per_code:.3f}"}
    if found.bits_per_dim is not None:
        rows["bits per dim"] = f"{found.bits_per_dim:.3f}"
    if 1 < len(found.by_depth) <= 32:
        rows["by depth"] = " ".join(f"{bits:.2f}" for bits in found.by_depth.tolist())
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name + ':':<{width}}{value}" for name, value in rows.items())


def plot_bits(found: CodeEvaluation, maps: Sequence[Tensor], out: Path) -> None:
    """Draws the bits by place, by depth and by step as the PNG file `out`.

    maps: of the places, [rows, columns] each, or [places] where these have no rows.
    """
    panels = len(maps) + (len(found.by_depth) > 1) + 1
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, panels, squeeze=False)[0])
    for panel, values in zip(axes, maps, strict=False):
        if values.dim() == 2:
            figure.colorbar(panel.imshow(values.numpy(), cmap="viridis", vmin=0), ax=panel, shrink=0.8)
            panel.set(xticks=[], yticks=[])
        else:
            panel.bar(range(len(values)), values.tolist(), color=_COLOUR)
        panel.set_title("bits at each place")
    if len(found.by_depth) > 1:
        depths = range(1, len(found.by_depth) + 1)
        axes[-2].bar(depths, found.by_depth.tolist(), color=_COLOUR)
        axes[-2].set(title="bits of a code by depth", xlabel="depth")
    axes[-1].plot(range(len(found.by_step)), found.by_step.tolist(), color=_COLOUR, linewidth=0.8)
    axes[-1].set(title="bits by step of the order", xlabel="step", ylim=(0, None))
    figure.savefig(out, dpi=110)

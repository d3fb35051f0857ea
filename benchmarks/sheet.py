"""Rows of pictures in a figure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F


def show_rows(axes: Axes, rows: Mapping[str, Tensor]) -> None:
    """Draws rows of pictures, [N, C, H, W] in [−1, 1], with their names; as many of each as the shortest one has."""
    shown = [row[: min(map(len, rows.values()))] for row in rows.values()]
    apart = [F.pad(row.clamp(-1, 1).add(1).div(2), (1, 1, 1, 1), value=1.0) for row in shown]
    whole = torch.cat([torch.cat(list(row), 2) for row in apart], 1).permute(1, 2, 0)
    axes.imshow(whole, cmap="gray", vmin=0, vmax=1)
    side = apart[0].shape[2]
    axes.set_xticks([])
    axes.set_yticks([side * (place + 0.5) for place in range(len(apart))], list(rows))

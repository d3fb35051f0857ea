"""Rotary positions on a grid: queries and keys are turned by angles that grow along rows and columns.

Su et al., "RoFormer", 2021; along two axes as in Heo et al., "Rotary position embedding for vision transformer", 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BASE = 100.0  # the slowest pair turns by 1/100 a position: grids are tens of positions wide


def rotary_angles(height: int, width: int, features: int, frames: int | None = None) -> Tensor:
    """Cosines and sines float32 [2, N, features/2] for the N places of a grid (height, width), or (frames, …).

    features: of a head, a multiple of 4. As many pairs of them turn with each axis, and those left over with the first.
    """
    grid = (height, width) if frames is None else (frames, height, width)
    share, over = divmod(features // 2, len(grid))
    axes = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    turned = []
    for axis, pairs in zip(axes, (share + over, *[share] * (len(grid) - 1)), strict=True):
        frequencies = _BASE ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        turned.append(axis.flatten()[:, None] * frequencies)
    angles = torch.cat(turned, 1)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Queries or keys [..., N, features], each pair of features (i, i + features/2) turned by its angle."""
    cosine, sine = angles.to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)

"""Rotary positions on a grid: queries and keys are turned by angles that grow along rows and columns.

Su et al., "RoFormer", 2021; along two axes as in Heo et al., "Rotary position embedding for vision transformer", 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BASE = 100.0  # the slowest pair turns by 1/100 a position: grids are tens of positions wide


def rotary_angles(height: int, width: int, features: int) -> Tensor:
    """Cosines and sines float32 [2, height·width, features/2] for heads of so many features, a multiple of 4.

    A quarter of the features, in pairs, turns with the row, a quarter with the column.
    """
    frequencies = _BASE ** -(torch.arange(features // 4, dtype=torch.float64) / (features // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = torch.cat([axis.flatten()[:, None] * frequencies for axis in (rows, columns)], 1)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Queries or keys [..., N, features], each pair of features (i, i + features/2) turned by its angle."""
    cosine, sine = angles.to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)

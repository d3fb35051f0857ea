"""Times and positions as vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a vector: cosines and sines of 1000·t at frequencies from 1 down to 1/10000, then an MLP."""

    def __init__(self, width: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.input = nn.Linear(2 * frequencies, width)
        self.output = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """[B] to [B, width]."""
        # In float32 even for a bfloat16 network, whose 8 bits would fold the fast frequencies onto each other.
        exponents = torch.arange(self.frequencies, dtype=torch.float32, device=t.device) / self.frequencies
        angles = 1000 * t.float()[:, None] * 10000**-exponents
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.input.weight.dtype)
        return self.output(F.silu(self.input(waves)))


def sincos_positions(height: int, width: int, features: int) -> Tensor:
    """Fixed positions of a height × width grid, row by row: float32 [height·width, features].

    A quarter of the features each for sine and cosine of the row and of the column, at frequencies from 1 down to
    1/10000 (Vaswani et al., 2017, in two dimensions).
    """
    frequencies = 10000 ** -(torch.arange(features // 4, dtype=torch.float64) / (features // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()

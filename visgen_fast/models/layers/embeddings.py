"""Times, noise levels and positions as vectors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What the fastest wave turns by for 1 of t, or 1 of λ: λ from −20 to 20 spans as much as t from 0 to 1.
_SCALES = {"time": 1000, "log_snr": 25}


class TimeEmbedding(nn.Module):
    """A time as a vector: cosines and sines of 1000·t at frequencies from 1 down to 1/10000, then an MLP.

    conditioning: "time", t in [0, 1], or "log_snr", the level λ = ln(α²/σ²), of which 25·λ stands for 1000·t.
    ValueError for another.
    """

    def __init__(
        self, width: int, frequencies: int = 128, *, conditioning: Literal["time", "log_snr"] = "time"
    ) -> None:
        super().__init__()
        if conditioning not in _SCALES:
            raise ValueError(f"conditioning must be time or log_snr, got {conditioning!r}")
        self.frequencies, self.scale = frequencies, _SCALES[conditioning]
        self.input = nn.Linear(2 * frequencies, width)
        self.output = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """[B] to [B, width]."""
        # In float32 even for a bfloat16 network, whose 8 bits would fold the fast frequencies onto each other.
        exponents = torch.arange(self.frequencies, dtype=torch.float32, device=t.device) / self.frequencies
        angles = self.scale * t.float()[:, None] * 10000**-exponents
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

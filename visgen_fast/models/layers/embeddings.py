"""Times, noise levels and positions as vectors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# How many units of t 1 of it, or 1 of λ, stands for: λ from −20 to 20 spans as much as t from 0 to 1.
_UNITS = {"time": 1.0, "log_snr": 1 / 40}


class TimeEmbedding(nn.Module):
    """A time as a vector: cosines and sines of scale·t at frequencies from 1 down to 1/10000, then an MLP.

    conditioning: "time", t in [0, 1], or "log_snr", the level λ = ln(α²/σ²), of which λ/40 stands for t. scale: what
    the fastest wave turns by for 1 of t, positive. ValueError for another.
    """

    def __init__(
        self,
        width: int,
        frequencies: int = 128,
        *,
        conditioning: Literal["time", "log_snr"] = "time",
        scale: float = 1000.0,
    ) -> None:
        super().__init__()
        if conditioning not in _UNITS:
            raise ValueError(f"conditioning must be time or log_snr, got {conditioning!r}")
        if not 0 < scale < math.inf:
            raise ValueError(f"time_scale must be positive and finite, got {scale}")
        self.frequencies, self.scale = frequencies, scale * _UNITS[conditioning]
        self.input = nn.Linear(2 * frequencies, width)
        self.output = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """[...] to [..., width]."""
        # In float32 even for a bfloat16 network, whose 8 bits would fold the fast frequencies onto each other.
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        exponents = torch.arange(self.frequencies, dtype=t.dtype, device=t.device) / self.frequencies
        angles = self.scale * t[..., None] * 10000**-exponents
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


def frame_positions(frames: int, height: int, width: int, features: int) -> Tensor:
    """Fixed positions of clips, float32 [frames, height·width, features]: `sincos_positions`, plus those of the frame.

    Half of the features each are the sine and the cosine of the frame's number, at the frequencies of Vaswani et al.
    """
    frequencies = 10000 ** -(torch.arange(features // 2, dtype=torch.float64) / (features // 2))
    angles = torch.arange(frames)[:, None, None] * frequencies
    return sincos_positions(height, width, features) + torch.cat((angles.sin(), angles.cos()), -1).float()

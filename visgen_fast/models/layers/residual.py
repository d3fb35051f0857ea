"""Convolutions with group normalisation, around which the input passes."""

from __future__ import annotations

import math

from torch import Tensor, nn

_GROUPS = 8


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), x through a 1×1 convolution where the number of features changes."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(group_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)),
            *(group_norm(outputs), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(outputs, outputs, 3, padding=1)),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        return self.shortcut(x) + self.branch(x)


def group_norm(width: int) -> nn.GroupNorm:
    """Group normalisation of `width` features, in eight groups where 8 divides them."""
    return nn.GroupNorm(math.gcd(_GROUPS, width), width)

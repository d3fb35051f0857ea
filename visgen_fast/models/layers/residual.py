"""Convolutions with group normalisation, around which the input passes."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .modulation import Modulation, modulate

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


class ModulatedResidualBlock(nn.Module):
    """`ResidualBlock` whose second normalisation is scaled and shifted by a condition; it begins as its shortcut.

    Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", 2021, section 3.1. width: of the condition.
    """

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.enter = nn.Sequential(group_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.norm = group_norm(outputs)
        self.modulation = Modulation(width, 2, outputs)
        last = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.leave = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), last)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: [B, inputs, H, W]; condition: [B, width]. Returns [B, outputs, H, W]."""
        shift, scale = (part[..., None, None] for part in self.modulation(condition))
        return self.shortcut(x) + self.leave(modulate(self.norm(self.enter(x)), shift, scale))


def zeroed(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution, with weights and biases of 0: the branch that ends with it adds nothing at first."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def group_norm(width: int) -> nn.GroupNorm:
    """Group normalisation of `width` features, in eight groups where 8 divides them."""
    return nn.GroupNorm(math.gcd(_GROUPS, width), width)

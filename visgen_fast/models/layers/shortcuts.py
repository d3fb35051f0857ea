"""Ways beside a change of resolution that have no weights: pixels are moved into features, or features into pixels.

Chen et al., "Deep compression autoencoder for efficient high-resolution diffusion models", 2025, section 3.2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class HalvingShortcut(nn.Module):
    """A convolution [B, C, 2h, 2w] → [B, C', h, w], plus its input: the 4·C values of each 2×2 square, in C' means."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        there = self.convolution(x)
        moved = F.pixel_unshuffle(x, 2)
        return there + moved.unflatten(1, (there.shape[1], -1)).mean(2)


class DoublingShortcut(nn.Module):
    """A branch [B, C, h, w] → [B, outputs, 2h, 2w], plus its input: each feature, repeated, spread over the squares."""

    def __init__(self, branch: nn.Module, outputs: int) -> None:
        super().__init__()
        self.branch, self.outputs = branch, outputs

    def forward(self, x: Tensor) -> Tensor:
        repeated = x.repeat_interleave(4 * self.outputs // x.shape[1], 1)
        return self.branch(x) + F.pixel_shuffle(repeated, 2)

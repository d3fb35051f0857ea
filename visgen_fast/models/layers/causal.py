"""Layers over clips [B, C, T, H, W] in which no frame sees a later one.

Yu et al., "Language model beats diffusion: tokenizer is key to visual generation" (MAGVIT-2), 2024, section 3.2. A clip
may come in chunks: each layer that looks back keeps the frames that it needs in a `State`, under itself as the key, so
that neither the order nor the number of calls matters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .residual import group_norm

State = dict[nn.Module, Tensor]

_KERNEL = 3


class PerFrame(nn.Sequential):
    """Layers for images, on each frame by itself."""

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        """[B, C, T, H, W] to what the layers make of each frame."""
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


class CausalConv(nn.Conv3d):
    """A 3×3×3 convolution of each frame with the two before it; before the first one there are zeros.

    stride: of (frames, pixels). With a stride of 2 over frames, 1 + 2k become 1 + k.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: tuple[int, int] = (1, 1)) -> None:
        frames, pixels = stride
        super().__init__(inputs, outputs, _KERNEL, stride=(frames, pixels, pixels), padding=(0, 1, 1))

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        """[B, inputs, T, H, W] to [B, outputs, …]; where a state is given, it becomes that after x."""
        before = None if state is None else state.get(self)
        x = F.pad(x, (0, 0, 0, 0, _KERNEL - 1, 0)) if before is None else torch.cat((before, x), 2)
        if state is not None:
            outputs = (x.shape[2] - _KERNEL) // self.stride[0] + 1
            state[self] = x[:, :, outputs * self.stride[0] :].clone()  # a view would keep the whole chunk
        return super().forward(x)


class CausalSequential(nn.Sequential):
    """Layers in a row, each given the state."""

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        """What the layers make of x, one after the other."""
        for layer in self:
            x = layer(x, state)
        return x


class CausalResidualBlock(nn.Module):
    """`ResidualBlock` for clips; group normalisation is of each frame by itself."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = CausalSequential(
            PerFrame(group_norm(width), nn.SiLU()),
            CausalConv(width, width),
            PerFrame(group_norm(width), nn.SiLU(), nn.Dropout(dropout)),
            CausalConv(width, width),
        )

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        """[B, width, T, H, W] to the same shape."""
        return x + self.branch(x, state)


class CausalHalving(nn.Module):
    """[B, inputs, T, 2h, 2w] to [B, outputs, T', h, w]; frames 2 makes 1 + k frames of 1 + 2k.

    shortcut: whether the clip passes beside the convolution too: pixels moved into features and averaged, as are each
    two frames after the first.
    """

    def __init__(self, inputs: int, outputs: int, *, frames: int, shortcut: bool) -> None:
        super().__init__()
        self.frames, self.shortcut = frames, shortcut
        self.convolution = CausalConv(inputs, outputs, stride=(frames, 2))
        self.move = PerFrame(nn.PixelUnshuffle(2))

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        first = state is None or self.convolution not in state
        there = self.convolution(x, state)
        if not self.shortcut:
            return there
        moved = self.move(x).transpose(1, 2)
        if self.frames == 2:
            pairs = torch.cat((moved[:, :1], moved), 1) if first else moved
            moved = pairs.unflatten(1, (-1, 2)).mean(2)
        return there + moved.unflatten(2, (there.shape[1], -1)).mean(3).transpose(1, 2)


class CausalDoubling(nn.Module):
    """[B, inputs, T, h, w] to [B, outputs, T', 2h, 2w]; frames 2 makes 1 + 2k frames of 1 + k.

    shortcut: as of `CausalHalving`, features spread over the pixels.
    """

    def __init__(self, inputs: int, outputs: int, *, frames: int, shortcut: bool) -> None:
        super().__init__()
        self.frames, self.shortcut = frames, shortcut
        self.convolution = CausalConv(inputs, outputs)
        self.spread = PerFrame(nn.PixelShuffle(2))

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if self.frames == 2:
            first = state is None or self.convolution not in state
            x = x.repeat_interleave(2, 2)[:, :, int(first) :]  # the first frame stays one
        there = self.convolution(F.interpolate(x, scale_factor=(1, 2, 2)), state)
        if not self.shortcut:
            return there
        return there + self.spread(x.repeat_interleave(4 * there.shape[1] // x.shape[1], 1))

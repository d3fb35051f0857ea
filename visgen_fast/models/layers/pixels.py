"""What convolutional models of pixels share: codes [H, W, C] in raster order, rows at once or pixel by pixel.

Features come in C groups. Group c of a pixel may know its codes c' < c, and every code of earlier pixels; the head
reads code c from the groups up to c.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...autoregression.model import CodeModel
from ...autoregression.order import raster
from ...nn.conditions import AnyCondition
from ...nn.state import RefilledBuffers
from .checks import check_sizes
from .labels import LabelEmbedding


class RowConvolution(RefilledBuffers):
    """A convolution over a row's pixels up to the current one, which it sees through a mask of groups.

    [B, inputs, H, W] to [B, outputs, H, W]. Both come in `groups` groups, `outputs` in that several times where
    `repeats` says so. Of the current pixel an output sees the groups before its own, and its own unless `strict`.
    """

    mask: Tensor

    def __init__(
        self, inputs: int, outputs: int, taps: int, groups: int, *, strict: bool = False, repeats: int = 1
    ) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.randn(outputs, inputs, taps) * (inputs * taps) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.groups, self.strict, self.repeats = groups, strict, repeats
        self.register_fresh_buffers()

    def fresh_buffers(self) -> dict[str, Tensor]:
        outputs, inputs, _ = self.weight.shape
        target = _groups(outputs // self.repeats, self.groups).repeat(self.repeats)[:, None]
        source = _groups(inputs, self.groups)
        mask = torch.ones(self.weight.shape)
        mask[:, :, -1] = (target > source) if self.strict else (target >= source)
        return {"mask": mask}

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (self.taps - 1, 0)), (self.weight * self.mask)[:, :, None], self.bias)

    def matrix(self) -> Tensor:
        """The weight [outputs, taps·inputs] for a window [B, taps, inputs] of pixels, flat."""
        return (self.weight * self.mask).transpose(1, 2).flatten(1)


def _groups(features: int, groups: int) -> Tensor:
    """The group of each feature."""
    return torch.arange(features) * groups // features


@dataclass
class PixelState:
    """How far the pixels are, and what the next ones need of those before.

    matrices: of the row convolutions, by module; canvas: embedded codes [B, rows above + H, left + W + right, width],
    zero where there is none; layers: what the network keeps.
    """

    label: Tensor | None
    matrices: dict[nn.Module, Tensor]
    step: int = 0
    canvas: Tensor = field(default_factory=lambda: torch.zeros(0))
    layers: dict[str, Tensor] = field(default_factory=dict)

    def apply(self, module: RowConvolution, window: Tensor) -> Tensor:
        """A row convolution of the window [B, taps, inputs] that ends at the current pixel: [B, outputs]."""
        return F.linear(window.flatten(1), self.matrices[module], module.bias)


class PixelModel(CodeModel):
    """The frame of a convolutional model of codes [H, W, C].

    The canvas of embedded codes is padded by `above` rows and by `beside` pixels on both sides. shape, size, width,
    classes: as of the networks.
    """

    def __init__(self, shape: Sequence[int], size: int, width: int, classes: int, *, above: int, beside: int) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (H, W, C), each at least 1, got {tuple(shape)}")
        check_sizes(size=size)
        self.height, self.breadth, self.channels = shape
        if width < 1 or width % self.channels:
            raise ValueError(f"width must be a multiple of the {self.channels} channels, got {width}")
        self.order, self.size, self.width = raster(shape), size, width
        self.above, self.beside = above, beside
        self.embed_label = LabelEmbedding(classes, width)
        self.null_label = self.embed_label.null_label
        self.embed_code = nn.Embedding(self.channels * size, width // self.channels)
        # Codes of pixels begin in the order of their values: neighbours alike, which a network need not learn first.
        values = torch.linspace(-1, 1, size).repeat(self.channels)[:, None]
        self.embed_code.weight.data = values * torch.randn(width // self.channels) + 0.1 * self.embed_code.weight.data
        self.place = nn.Parameter(torch.zeros(width, self.height, self.breadth))
        self.hidden = RowConvolution(width, width, 1, self.channels)
        self.head = RowConvolution(width, self.channels * size, 1, self.channels)
        self.head.weight.data.mul_(0.1)

    @abstractmethod
    def features(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Embedded codes [B, width, H, W] to features of the same shape."""

    @abstractmethod
    def begin_row(self, state: PixelState, row: int) -> None:
        """Prepares what the pixels of a row need of the rows above it."""

    @abstractmethod
    def at(self, state: PixelState, row: int, column: int) -> Tensor:
        """The features [B, width] of a pixel; those of groups that know codes not yet drawn are without meaning."""

    def forward(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        embedded = self._embed(codes, torch.arange(self.channels, device=codes.device)).flatten(3)
        features = self.features(embedded.permute(0, 3, 1, 2), self.embed_label(condition))
        logits = self.head(F.gelu(self.hidden(F.gelu(features))))
        return logits.unflatten(1, (self.channels, self.size)).permute(0, 3, 4, 1, 2)

    def begin(self, condition: AnyCondition = None) -> PixelState:
        matrices: dict[nn.Module, Tensor] = {
            module: module.matrix() for module in self.modules() if isinstance(module, RowConvolution)
        }
        return PixelState(self.embed_label(condition), matrices)

    def advance(self, state: PixelState, codes: Tensor) -> Tensor:
        pixel, channel = divmod(state.step, self.channels)
        row, column = divmod(pixel, self.breadth)
        if state.step:
            self._write(state, codes)
        else:
            sides = self.height + self.above, self.breadth + 2 * self.beside
            state.canvas = self.place.new_zeros(len(codes), *sides, self.width)
        if column == channel == 0:
            self.begin_row(state, row)
        features = F.gelu(self.at(state, row, column))
        hidden = F.gelu(F.linear(features, state.matrices[self.hidden], self.hidden.bias))
        own = slice(channel * self.size, (channel + 1) * self.size)
        state.step += 1
        return F.linear(hidden, state.matrices[self.head][own], self.head.bias[own])[:, None]

    def row_window(self, state: PixelState, row: int, column: int) -> Tensor:
        """The embedded codes [B, beside + 1, width] of a row up to a pixel."""
        return state.canvas[:, self.above + row, column : column + self.beside + 1]

    def rows_above(self, state: PixelState, row: int) -> Tensor:
        """The embedded codes of the rows above one, [B, width, above, padded W]."""
        return state.canvas[:, row : row + self.above].permute(0, 3, 1, 2)

    def _write(self, state: PixelState, codes: Tensor) -> None:
        """Puts the codes [B, 1] of the step before onto the canvas."""
        pixel, channel = divmod(state.step - 1, self.channels)
        row, column = divmod(pixel, self.breadth)
        group = self.width // self.channels
        place = state.canvas[:, self.above + row, self.beside + column]
        place[:, channel * group : (channel + 1) * group] = self._embed(codes[:, 0], channel)

    def _embed(self, codes: Tensor, channel: Tensor | int) -> Tensor:
        return self.embed_code(codes + self.size * channel)

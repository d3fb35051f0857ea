"""Gated PixelCNN: van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers.checks import check_sizes
from .layers.pixels import PixelModel, PixelState, RowConvolution


class PixelCNN(PixelModel):
    """Pixels in raster order by two stacks of convolutions, which together see all of the pixels before.

    The vertical stack sees the rows above; the horizontal one the row up to the pixel, and the vertical one. Drawing
    computes the vertical stack once a row, and the horizontal one pixel by pixel.

    shape: (H, W, C) of the codes. size: V. width: features of each stack, a multiple of C. depth: gated layers. kernel:
    columns of the vertical convolutions, odd; their rows are those of its upper half, and the horizontal ones have its
    left half. classes: as of `SequenceModel`.

    ValueError where an argument does not fit the above.
    """

    def __init__(
        self,
        shape: Sequence[int],
        size: int,
        *,
        width: int,
        depth: int,
        kernel: int = 3,
        classes: int = 0,
    ) -> None:
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 3, got {kernel}")
        check_sizes(depth=depth)
        rows, left = (kernel + 1) // 2, kernel // 2
        super().__init__(shape, size, width, classes, above=rows, beside=left)
        self.first_vertical = nn.Conv2d(width, width, (rows, kernel))
        self.first_horizontal = RowConvolution(width, width, left + 1, self.channels, strict=True)
        layers = nn.ModuleList(GatedLayer(width, kernel, self.channels, bool(classes)) for _ in range(depth))
        self.layers = cast(Sequence[GatedLayer], layers)

    def features(self, x: Tensor, label: Tensor | None) -> Tensor:
        above = F.pad(x, (self.beside, self.beside, self.above, 0))[:, :, :-1]
        vertical = self.first_vertical(above) + self.place
        horizontal = self.first_horizontal(x) + self.place
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, label)
        return horizontal

    def begin_row(self, state: PixelState, row: int) -> None:
        vertical = self.first_vertical(self.rows_above(state, row)) + self.place[:, row, None]
        for index, layer in enumerate(self.layers):
            vertical = layer.begin_row(state, f"{index}", vertical)

    def at(self, state: PixelState, row: int, column: int) -> Tensor:
        horizontal = (
            state.apply(self.first_horizontal, self.row_window(state, row, column)) + self.place[:, row, column]
        )
        for index, layer in enumerate(self.layers):
            horizontal = layer.at(state, f"{index}", column, horizontal)
        return horizontal


class GatedLayer(nn.Module):
    """A gated convolution of each stack; the vertical one's, before its gate, goes into the horizontal one's."""

    def __init__(self, width: int, kernel: int, groups: int, labelled: bool) -> None:
        super().__init__()
        self.rows, self.left = (kernel + 1) // 2, kernel // 2
        self.vertical = nn.Conv2d(width, 2 * width, (self.rows, kernel))
        self.horizontal = RowConvolution(width, 2 * width, self.left + 1, groups, repeats=2)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.residual = RowConvolution(width, width, 1, groups)
        self.label = nn.Linear(width, 4 * width, bias=False) if labelled else None

    def forward(self, vertical: Tensor, horizontal: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks, [B, width, H, W] each."""
        padded = F.pad(vertical, (self.left, self.left, self.rows - 1, 0))
        for_vertical, for_horizontal = self._label_terms(label)
        summed = self.vertical(padded)
        gated = gate(self.horizontal(horizontal) + self.link(summed) + for_horizontal[..., None, None])
        return gate(summed + for_vertical[..., None, None]), horizontal + self.residual(gated)

    def begin_row(self, state: PixelState, name: str, vertical: Tensor) -> Tensor:
        """The vertical stack's next row [B, width, 1, W] of this one; keeps what the horizontal stack needs of it."""
        batch, width, _, breadth = vertical.shape
        padded = F.pad(vertical, (self.left, self.left))
        before = state.layers.get(f"{name} above", padded.new_zeros(batch, width, self.rows - 1, padded.shape[-1]))
        rows = torch.cat((before, padded), 2)
        for_vertical, for_horizontal = self._label_terms(state.label)
        summed = self.vertical(rows)
        link = self.link(summed) + for_horizontal[..., None, None]
        state.layers[f"{name} above"] = rows[:, :, 1:]
        state.layers[f"{name} link"] = link[:, :, 0].transpose(1, 2).contiguous()
        state.layers[f"{name} row"] = vertical.new_zeros(batch, self.left + breadth, width)
        return gate(summed + for_vertical[..., None, None])

    def at(self, state: PixelState, name: str, column: int, horizontal: Tensor) -> Tensor:
        """The horizontal stack at one pixel, [B, width]."""
        row = state.layers[f"{name} row"]
        row[:, self.left + column] = horizontal
        window = row[:, column : column + self.left + 1]
        gated = gate(state.apply(self.horizontal, window) + state.layers[f"{name} link"][:, column])
        return horizontal + state.apply(self.residual, gated)

    def _label_terms(self, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the label adds to each stack, [B, 2·width]."""
        if self.label is None:
            none = self.link.weight.new_zeros(1, self.link.out_channels)
            return none, none
        vertical, horizontal = self.label(label).chunk(2, 1)
        return vertical, horizontal


def gate(x: Tensor) -> Tensor:
    """tanh of the first half of the features times σ of the second."""
    value, opening = x.chunk(2, 1)
    return value.tanh() * opening.sigmoid()

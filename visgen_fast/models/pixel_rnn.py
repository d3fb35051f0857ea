"""PixelRNN with Row LSTMs: van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks", 2016."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers.checks import check_sizes
from .layers.pixels import PixelModel, PixelState, RowConvolution

_KERNEL = 7  # columns of the first convolution, of which it sees the upper half


class PixelRNN(PixelModel):
    """Pixels in raster order by Row LSTMs, which carry a state from each row to the next.

    A pixel's state comes from three of the row above: what it sees there grows by a pixel on both sides with each row,
    a triangle. In its own row it sees the 3 + depth pixels before it, and from there what the triangles add.

    shape: (H, W, C) of the codes. size: V. width: features, a multiple of C. depth: Row LSTMs. classes: as of
    `SequenceModel`.

    ValueError where an argument does not fit the above.
    """

    def __init__(self, shape: Sequence[int], size: int, *, width: int, depth: int, classes: int = 0) -> None:
        check_sizes(depth=depth)
        side = _KERNEL // 2
        super().__init__(shape, size, width, classes, above=side, beside=side)
        self.first_above = nn.Conv2d(width, width, (side, _KERNEL))
        self.first_row = RowConvolution(width, width, side + 1, self.channels, strict=True)
        self.layers = cast(Sequence[RowLSTM], nn.ModuleList(RowLSTM(width, self.channels) for _ in range(depth)))

    def features(self, x: Tensor, label: Tensor | None) -> Tensor:
        above = F.pad(x, (self.beside, self.beside, self.above, 0))[:, :, :-1]
        result = self.first_row(x) + self.first_above(above) + self.place
        if label is not None:
            result = result + label[..., None, None]
        for layer in self.layers:
            result = layer(result)
        return result

    def begin_row(self, state: PixelState, row: int) -> None:
        above = self.first_above(self.rows_above(state, row)) + self.place[:, row, None]
        if state.label is not None:
            above = above + state.label[..., None, None]
        state.layers["above"] = above[:, :, 0].transpose(1, 2).contiguous()
        for index, layer in enumerate(self.layers):
            layer.begin_row(state, f"{index}", self.breadth)

    def at(self, state: PixelState, row: int, column: int) -> Tensor:
        result = state.apply(self.first_row, self.row_window(state, row, column)) + state.layers["above"][:, column]
        for index, layer in enumerate(self.layers):
            result = layer.at(state, f"{index}", column, result)
        return result


class RowLSTM(nn.Module):
    """An LSTM over rows: gates from a pixel and the one before it, and from three states of the row above."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.width = width
        self.from_input = RowConvolution(width, 4 * width, 2, groups, repeats=4)
        self.from_state = nn.Conv1d(width, 4 * width, 3, padding=1)
        self.output = RowConvolution(width, width, 1, groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] to the same shape."""
        cell = hidden = torch.zeros_like(x[:, :, 0])
        states = []
        for gates in self.from_input(x).unbind(2):
            hidden, cell = _lstm(gates + self.from_state(hidden), cell)
            states.append(hidden)
        return x + self.output(torch.stack(states, 2))

    def begin_row(self, state: PixelState, name: str, breadth: int) -> None:
        """Makes the row that was drawn the one above: [B, W, width] each."""
        empty = state.canvas.new_zeros(len(state.canvas), breadth, self.width)
        above = state.layers.get(f"{name} hidden", empty)
        gates = self.from_state(above.transpose(1, 2)).transpose(1, 2)
        state.layers[f"{name} gates"] = gates.contiguous()
        state.layers[f"{name} cell above"] = state.layers.get(f"{name} cell", empty)
        state.layers[f"{name} hidden"], state.layers[f"{name} cell"] = empty.clone(), empty.clone()
        state.layers[f"{name} row"] = empty.new_zeros(len(empty), breadth + 1, self.width)

    def at(self, state: PixelState, name: str, column: int, x: Tensor) -> Tensor:
        """One pixel [B, width]."""
        row = state.layers[f"{name} row"]
        row[:, column + 1] = x
        gates = state.apply(self.from_input, row[:, column : column + 2]) + state.layers[f"{name} gates"][:, column]
        hidden, cell = _lstm(gates, state.layers[f"{name} cell above"][:, column])
        state.layers[f"{name} hidden"][:, column], state.layers[f"{name} cell"][:, column] = hidden, cell
        return x + state.apply(self.output, hidden)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The next hidden state and cell, of gates [B, 4·width, …] and the cell above [B, width, …]."""
    opened, forget, enter, value = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * value.tanh()
    return opened.sigmoid() * cell.tanh(), cell

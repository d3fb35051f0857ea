"""Attention within windows of a grid: its cost grows with the number of tokens, and not with their square.

Liu et al., "Swin transformer: hierarchical vision transformer using shifted windows", 2021. Windows that lie half a
window further let the next block look across the borders of those before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nn.state import RefilledBuffers
from .attention import HeadNorm, joined, split
from .rotary import rotary_angles

Pair = tuple[int, int]


class WindowAttention(RefilledBuffers):
    """Multi-head attention of the tokens of a grid to those of their window, at axial rotary positions.

    grid: of tokens, (height, width); window: (height, width), each of which divides that of the grid; shifted: whether
    windows lie half a window further, where the grid has several. No token sees one across the grid's border. Queries
    and keys are normalised (`HeadNorm`), which makes their product a cosine with a scale that is learned.
    """

    angles: Tensor
    regions: Tensor

    def __init__(self, grid: Pair, width: int, heads: int, window: Pair, *, shifted: bool = False) -> None:
        super().__init__()
        self.grid, self.heads, self.features, self.window = grid, heads, width // heads, window
        sides = zip(grid, window, strict=True)
        self.shift = tuple(side // 2 if shifted and side < whole else 0 for whole, side in sides)
        self.register_fresh_buffers()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.queries, self.keys = (HeadNorm(width // heads, normalized=True) for _ in range(2))
        self.project = nn.Linear(width, width, bias=False)

    def fresh_buffers(self) -> dict[str, Tensor]:
        angles = rotary_angles(*self.grid, self.features).unflatten(1, self.grid)
        rows, columns = (torch.arange(whole) >= whole - by for whole, by in zip(self.grid, self.shift, strict=True))
        regions = (2 * rows[:, None] + columns)[None, ..., None]  # what came from the other border is a region apart
        placed = to_windows(regions, self.window)[0, ..., 0].to(torch.uint8)
        return {"angles": to_windows(angles, self.window, self.shift)[:, :, None], "regions": placed}

    def forward(self, x: Tensor) -> Tensor:
        """[B, height, width, features] to the same shape."""
        windows = self.qkv(to_windows(x, self.window, self.shift))
        query, key, value = (
            part.unflatten(0, windows.shape[:2]) for part in split(windows.flatten(0, 1), 3, self.heads)
        )  # [B, windows, heads, N, features]
        query, key = self.queries(query, self.angles), self.keys(key, self.angles)
        mask = None
        if any(self.shift):
            mask = (self.regions[:, :, None] == self.regions[:, None]).repeat(len(x), 1, 1)[:, None]
        mixed = F.scaled_dot_product_attention(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), mask)
        return to_grid(self.project(joined(mixed)).unflatten(0, windows.shape[:2]), self.grid, self.window, self.shift)


def window_of(grid: Pair, most: int) -> Pair:
    """The largest square window of at most this side whose side divides both of the grid's, or the grid if it is one.

    ValueError where the largest has a side below half of `most`: a token would see too little.
    """
    if max(grid) <= most:
        return grid
    side = next(side for side in range(most, 0, -1) if not grid[0] % side and not grid[1] % side)
    if 2 * side < most:
        raise ValueError(
            f"the sides of a grid with windows must be divided by one number from {-(-most // 2)} to {most}, "
            f"got {grid[0]}×{grid[1]}"
        )
    return side, side


def to_windows(x: Tensor, window: Pair, shift: tuple[int, ...] = (0, 0)) -> Tensor:
    """[B, height, width, D] to the tokens of each window, row by row, [B, windows, N, D].

    shift: how far down and to the right windows begin; the grid goes on at its other border.
    """
    if any(shift):
        x = x.roll([-by for by in shift], (1, 2))
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # [B, rows, h, columns, w, D]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def to_grid(windows: Tensor, grid: Pair, window: Pair, shift: tuple[int, ...] = (0, 0)) -> Tensor:
    """The inverse of `to_windows` for a grid (height, width)."""
    x = windows.unflatten(2, window).unflatten(1, (grid[0] // window[0], -1)).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)
    return x.roll(list(shift), (1, 2)) if any(shift) else x

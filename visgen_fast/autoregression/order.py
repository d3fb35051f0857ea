"""Orders: at which step each code of an array is drawn.

An order is one integer for each code. What predicts a code sees exactly the codes of earlier steps; codes of one step
are drawn together, independent of each other given the earlier ones. Masks, caches, the sampler and the likelihood
follow from that alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops


class Order:
    """The steps of a code array [*grid, Q]: int64, from 0 on without gaps.

    steps: that tensor, on the CPU; shape: its shape; length: the number of codes; count: the number of steps; sizes:
    the number of codes of each step; places: int64 [length], the codes' row-major indices in the order in which they
    are drawn, those of one step rising.

    ValueError for steps of another type, with gaps, or not beginning at 0.
    """

    def __init__(self, steps: Tensor) -> None:
        if steps.dtype != torch.int64 or steps.dim() == 0 or steps.numel() == 0:
            raise ValueError(f"steps must be int64 [*grid, Q], got {steps.dtype} of shape {list(steps.shape)}")
        flat = steps.flatten().cpu()
        found = flat.unique()
        if found[0] != 0 or found[-1] != len(found) - 1:
            missing = next(step for step in range(len(found) + 1) if step not in found)
            raise ValueError(f"steps must be 0, 1, … without gaps, got none that is {missing}")
        self.steps = flat.view(steps.shape)
        self.shape = tuple(steps.shape)
        self.length, self.count = len(flat), len(found)
        self.sizes: list[int] = flat.bincount().tolist()
        self.places = flat.argsort(stable=True)
        self._as_in_memory = bool((self.places.diff() > 0).all())  # then an array is its sequence, and nothing moves
        self._moved: dict[torch.device, Tensor] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Order) and torch.equal(self.steps, other.steps)

    def __hash__(self) -> int:
        return hash((self.shape, self.count))

    def __repr__(self) -> str:
        return f"Order({self.length} codes {list(self.shape)} in {self.count} steps)"

    def to_sequence(self, codes: Tensor) -> Tensor:
        """An array [B, *grid, Q, …] as a sequence [B, length, …], in the order of the draws."""
        flat = codes.flatten(1, len(self.shape))
        return flat if self._as_in_memory else flat[:, self.places_on(codes.device)]

    def to_array(self, sequence: Tensor) -> Tensor:
        """The inverse: [B, length, …] to [B, *grid, Q, …]."""
        if self._as_in_memory:
            return sequence.unflatten(1, self.shape)
        array = torch.empty_like(sequence)
        array[:, self.places_on(sequence.device)] = sequence
        return array.unflatten(1, self.shape)

    def places_on(self, device: torch.device) -> Tensor:
        """`places` on the device, where they are copied once: a CUDA graph cannot capture a copy."""
        if device not in self._moved:
            self._moved[device] = self.places.to(device)
        return self._moved[device]


def raster(shape: Sequence[int]) -> Order:
    """Row by row, the last axis fastest: a code array [*grid, Q] in its order in memory."""
    return Order(torch.arange(math.prod(shape), device="cpu").view(*shape))


def columns(shape: Sequence[int]) -> Order:
    """Column by column of a grid [H, W, Q], each from the top, the codes of a place one after the other."""
    height, width, codes = _grid(shape, "columns")
    return Order(torch.arange(math.prod(shape), device="cpu").view(width, height, codes).transpose(0, 1))


def snake(shape: Sequence[int]) -> Order:
    """Row by row of a grid [H, W, Q], every second one from right to left."""
    _grid(shape, "snake")
    steps = torch.arange(math.prod(shape), device="cpu").view(*shape).clone()
    backward = torch.arange(shape[1] - 1, -1, -1, device="cpu")
    steps[1::2] = steps[1::2][:, backward]
    return Order(steps)


def plane_by_plane(shape: Sequence[int]) -> Order:
    """The first code of every place of [*grid, Q], row by row, then the second of every place, and so on."""
    *grid, codes = shape
    return Order(torch.arange(math.prod(shape), device="cpu").view(codes, *grid).movedim(0, -1))


def tile_by_tile(shape: Sequence[int], tile: int) -> Order:
    """Tiles of tile × tile places of a grid [H, W, Q] one after the other, row by row, and so the places of each."""
    height, width, codes = _grid(shape, "tile_by_tile")
    if tile < 1 or height % tile or width % tile:
        raise ValueError(f"tile must divide both sides of the grid, {height} and {width}, got {tile}")
    tiles = torch.arange(math.prod(shape), device="cpu").view(height // tile, width // tile, tile, tile, codes)
    return Order(tiles.transpose(1, 2).reshape(*shape))


def scale_by_scale(patch_numbers: Sequence[int | tuple[int, int]]) -> Order:
    """Codes [L, 1] of grids of rising size, each grid in one step (Tian et al., "VAR", 2024).

    patch_numbers: of each scale, along both sides or (rows, columns).
    """
    sides = [(n, n) if isinstance(n, int) else n for n in patch_numbers]
    lengths = torch.tensor([rows * columns for rows, columns in sides], device="cpu")
    return Order(torch.arange(len(sides), device="cpu").repeat_interleave(lengths)[:, None])


def in_turn(*orders: Order) -> Order:
    """The codes of several arrays [*grid, Q] as one [L, Q], those of an array after all of the one before.

    So are the levels of a hierarchy (VQ-VAE-2), or a coarse array that is given and a fine one. ValueError where the
    arrays differ in Q.
    """
    depths = {order.shape[-1] for order in orders}
    if len(depths) != 1:
        raise ValueError(f"orders in turn must be of arrays with one number of codes at a place, got {sorted(depths)}")
    steps, first = [], 0
    for order in orders:
        steps.append(order.steps.view(-1, order.shape[-1]) + first)
        first += order.count
    return Order(torch.cat(steps))


def shuffled(shape: Sequence[int], seed: int) -> Order:
    """One fixed permutation of all codes, which the seed decides."""
    keys = ops.derive_seeds(seed, torch.arange(math.prod(shape), device="cpu"), purpose=ops.Purpose.CODE)
    steps = torch.empty_like(keys)
    steps[keys.argsort(stable=True)] = torch.arange(len(keys), device="cpu")
    return Order(steps.view(*shape))


def _grid(shape: Sequence[int], name: str) -> Sequence[int]:
    if len(shape) != 3:
        raise ValueError(f"{name} is an order of a grid [H, W, Q], got the shape {list(shape)}")
    return shape

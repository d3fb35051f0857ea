"""Images as sequences of patches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] to tokens [B, (H/p)·(W/p), p·p·C], row by row."""
    x = x.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [B, C, H/p, p, W/p, p]
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch_size: int, image_size: Sequence[int]) -> Tensor:
    """The inverse of `patchify` for images of `image_size` (height, width)."""
    grid = tokens.unflatten(1, (image_size[0] // patch_size, -1)).unflatten(3, (patch_size, patch_size, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

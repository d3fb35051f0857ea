"""The sentences in which networks refuse sizes and images that don't fit them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """ValueError unless every size, or each of several that have one name, is at least 1."""
    for name, size in sizes.items():
        for one in (size,) if isinstance(size, int) else size:
            if one < 1:
                raise ValueError(f"{name} must be at least 1, got {one}")


def check_transformer(width: int, heads: int) -> None:
    """ValueError unless heads divides width, and `sincos_positions` can have so many features."""
    if width % heads:
        raise ValueError(f"heads must divide width {width}, got {heads}")
    if width % 4:
        raise ValueError(f"width must be a multiple of 4 (sine and cosine of two coordinates), got {width}")


def check_images(images: Tensor, channels: int, size: tuple[int, ...], factor: int | None = None) -> None:
    """ValueError unless x_t is [B, channels, *size], or for a network with a factor, of sides that this divides."""
    if factor is not None and images.dim() == 4 and not any(side % factor for side in images.shape[2:]):
        size = tuple(images.shape[2:]) if images.shape[1] == channels else size
    if images.shape[1:] != (channels, *size):
        raise ValueError(f"x_t must have shape [B, {channels}, {', '.join(map(str, size))}], got {list(images.shape)}")

"""The resolutions that a network goes through on its way from a few positions to an image."""

from __future__ import annotations

_LEAST = 4


def resolutions(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Those of (height, width), the coarsest first: it is halved as long as both sides are even and 4 at least after.

    ValueError where that is a single one, whose sides are then too small or odd.
    """
    sizes = [image_size]
    while all(side % 2 == 0 and side // 2 >= _LEAST for side in sizes[0]):
        height, width = sizes[0]
        sizes.insert(0, (height // 2, width // 2))
    if len(sizes) == 1:
        height, width = image_size
        raise ValueError(f"the images' sides must be divisible by 2, and at least {2 * _LEAST}, got {height}×{width}")
    return sizes


def widths_of(levels: int, width: int, most: int = 8) -> list[int]:
    """Features at so many levels, the coarsest first: `width` at the finest, twice as many a level, up to `most`×."""
    return [width * min(2**level, most) for level in reversed(range(levels))]

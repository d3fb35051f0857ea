"""GIFs for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_gif(path: Path, frames: int, *, side: int = 8, first: int = 0) -> Path:
    """A grey animation whose frame t has the level first + 10·t, but for one darker pixel in its corner."""
    pictures = []
    for frame in range(frames):
        levels = np.full((side, side), first + 10 * frame, np.uint8)
        levels[0, 0] = first
        pictures.append(Image.fromarray(levels))
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, loop=0)
    return path


def folder_of_gifs(folder: Path, count: int, frames: int) -> Path:
    """Two classes of them, of the same length."""
    for number in range(count):
        write_gif(folder / ("rising" if number % 2 else "other") / f"{number:02}.gif", frames, first=5 * number % 200)
    return folder

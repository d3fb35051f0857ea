"""Watching images arise: callbacks of `sample`, which are called with (step, t, x, denoised)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from types import TracebackType

import numpy as np
from torch import Tensor

from .. import _check as check
from ..data.images import as_pixels

_GAP, _LEAST_SIDE, _GREY = 2, 48, 88
_FRAME, _LAST_FRAME = 80, 1500  # milliseconds


class ProgressBar:
    """A bar of the steps that are done, on a terminal; elsewhere it shows nothing.

        with ProgressBar(plan.steps) as bar:
            sample(…, callback=bar)

    steps: how many fill it.
    """

    def __init__(self, steps: int) -> None:
        check.integer(steps, "steps", 0)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
        self.visible = console.is_terminal
        self._progress = Progress(*columns, console=console, transient=True, disable=not self.visible)
        self._task = self._progress.add_task("sampling", total=steps)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, step: int, t: float, x: Tensor, denoised: Tensor) -> None:
        self._progress.advance(self._task)


class Previews:
    """Keeps the denoised images of a call of `sample`, to show how they arose; another call begins anew.

        previews = Previews(every=5)
        sample(…, callback=previews)
        previews.gif("previews.gif")

    every: one of so many steps is kept, and the last. decode: from denoised images to images [B, C, H, W] in [−1, 1]
    with one or three channels, for a model of latent images; by default they are such images themselves.

    ValueError unless every, rows and columns are at least 1, and where images of another shape come or are missing.
    """

    def __init__(self, *, every: int = 1, decode: Callable[[Tensor], Tensor] | None = None) -> None:
        check.integer(every, "every", 1)
        self.every, self.decode = every, decode
        self._kept: list[np.ndarray] = []
        self._newest: Tensor | None = None

    def __call__(self, step: int, t: float, x: Tensor, denoised: Tensor) -> None:
        if step == 0:
            self._kept = []
        self._newest = denoised
        if step % self.every == 0:
            self._kept.append(self._pixels(denoised))
            self._newest = None

    def frames(self) -> np.ndarray:
        """What was kept, the first step first: uint8 [frames, B, H, W, 3]."""
        last = [] if self._newest is None else [self._pixels(self._newest)]
        if not self._kept and not last:
            raise ValueError("there are no previews: give them to sample as its callback first")
        return np.stack([*self._kept, *last])

    def gif(self, path: str | os.PathLike[str], *, columns: int | None = None) -> None:
        """Writes an animation that shows all images side by side, in so many columns; a square by default."""
        frames = self.frames()
        count = frames.shape[1]
        columns = math.ceil(math.sqrt(count)) if columns is None else columns
        check.integer(columns, "columns", 1)
        rows = [[frame[i : i + columns] for i in range(0, count, columns)] for frame in frames]
        first, *others = (_tiled(frame) for frame in rows)
        durations = [_FRAME] * len(others) + [_LAST_FRAME]
        first.save(path, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)

    def strip(self, path: str | os.PathLike[str], *, rows: int = 8, columns: int = 10) -> None:
        """Writes a picture with at most so many images as rows and steps as columns, spread evenly over all."""
        check.integer(rows, "rows", 1)
        check.integer(columns, "columns", 1)
        frames = self.frames()
        steps, images = (_spread(size, most) for size, most in zip(frames.shape, (columns, rows), strict=False))
        _tiled([frames[steps, image] for image in images]).save(path, format="PNG")

    def _pixels(self, denoised: Tensor) -> np.ndarray:
        images = denoised if self.decode is None else self.decode(denoised)
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"previews are of images [B, 1 or 3, H, W], got {list(images.shape)}: decode must make them"
            )
        return as_pixels(images, _LEAST_SIDE)


def _spread(size: int, most: int) -> list[int]:
    """`most` of the numbers below `size`, the first and the last among them."""
    count = min(size, most)
    return [round(place * (size - 1) / max(count - 1, 1)) for place in range(count)]


def _tiled(rows: list[np.ndarray]):  # noqa: ANN202  Pillow is imported late
    """Rows of images [columns, H, W, 3] as one picture."""
    from PIL import Image

    columns, height, width = rows[0].shape[:3]
    shape = len(rows) * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3
    canvas = np.full(shape, _GREY, np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top, left = _GAP + r * (height + _GAP), _GAP + c * (width + _GAP)
            canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas)

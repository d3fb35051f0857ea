"""Figures of a run: a grid of images and the curve of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.images import as_pixels
from ..untrusted import MOST_CHARACTERS_OF_A_NAME, escaped
from .losses import read_losses

_GAP = 4
_LEAST_SIDE = 48
_LETTER_HEIGHT = 16
# Neither black nor white ink runs into a grey gap.
_GREY = (88, 88, 88)


def image_grid(images: Tensor, names: Sequence[str] = ()) -> Image.Image:
    """A grid [rows, columns, C, H, W] of images in [−1, 1] as one RGB grid on grey.

    Small images are enlarged by a whole factor, without smoothing, until they can be seen. `names`, one a row, are
    written at the left, long ones cut. A single row is broken into rows of ten. C is 1 (grey) or 3 (RGB).
    """
    if len(images) == 1 and images.shape[1] % 10 == 0:
        images, names = images.unflatten(1, (-1, 10))[0], ()
    pixels = as_pixels(images, _LEAST_SIDE)
    rows, columns, height, width, _ = pixels.shape
    names = [escaped(name, MOST_CHARACTERS_OF_A_NAME) for name in names]
    font = ImageFont.load_default(_LETTER_HEIGHT)
    margin = max((int(font.getlength(name)) + 2 * _GAP for name in names), default=0)
    step_x, step_y = width + _GAP, height + _GAP
    grid = Image.new("RGB", (margin + columns * step_x + _GAP, rows * step_y + _GAP), _GREY)
    draw = ImageDraw.Draw(grid)
    for row in range(rows):
        if names:
            draw.text((margin - _GAP, row * step_y + step_y // 2), names[row], "white", font, anchor="rm")
        for column in range(columns):
            image = Image.fromarray(np.ascontiguousarray(pixels[row, column]))
            grid.paste(image, (margin + _GAP + column * step_x, _GAP + row * step_y))
    return grid


def loss_curve(losses: Path, out: Path) -> None:
    """Draws the column `loss` of the CSV file `losses` over its column `step`, as a PNG file.

    The loss is drawn on a logarithmic scale, unless some of it is not positive, as an entropy to be maximised makes it.
    Rows without a loss, between two turns of its player, are left out.
    """
    rows = [(int(row["step"]), float(row["loss"])) for row in read_losses(losses, ("step", "loss"))]
    steps, values = np.array([row for row in rows if math.isfinite(row[1])]).reshape(-1, 2).T
    figure = Figure(figsize=(7, 4), layout="constrained")
    positive = len(values) and values.min() > 0
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log" if positive else "linear")
    axes.plot(steps, values, linewidth=0.6, alpha=0.4, label="between two rows")
    half = max(len(values) // 40, 1)
    smooth = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    axes.plot(steps, smooth, linewidth=1.6, label="smoothed")
    axes.legend()
    figure.savefig(out, dpi=120)

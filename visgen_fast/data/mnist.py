"""Handwritten digits of 28×28 pixels: MNIST's IDX files, or the 5000 of its digits that OpenCV's examples come with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import UserError
from .idx import labelled_images
from .images import ImagesInMemory, Part

# Where the Debian package opencv-doc puts its picture of digits.
SHEET = Path("/usr/share/doc/opencv-doc/examples/data/digits.png")
_ROWS, _COLUMNS, _SIDE, _MARGIN = 50, 100, 20, 4
_HELD_OUT_EVERY = 5


def mnist(folder: Path | None = None, *, part: str = "train") -> ImagesInMemory | Part:
    """Handwritten digits, 28×28 grey: part "train" or "t10k".

    With a folder, the four IDX files of MNIST in it (LeCun, Cortes and Burges, 1998). Without one, the 5000 digits of
    20×20 pixels in a picture of the Debian package opencv-doc, each with MNIST's margin of 4; every fifth is held out.
    `UserError` where they are not there.
    """
    names = tuple(map(str, range(10)))
    if folder is not None:
        return labelled_images(folder, part, names, "give the folder with MNIST's four IDX files as --data")
    if not SHEET.is_file():
        raise UserError(
            f"{SHEET} is not there: install the Debian package opencv-doc, or give the folder with MNIST's four IDX "
            "files as --data"
        )
    images = ImagesInMemory(_cut(SHEET), torch.arange(_ROWS * _COLUMNS) // (_ROWS * _COLUMNS // 10), names)
    kept = [i for i in range(len(images)) if (i % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1) == (part == "t10k")]
    return Part(images, kept)


def _cut(path: Path) -> torch.Tensor:
    """The digits of the sheet, row by row: uint8 [5000, 1, 28, 28]."""
    from PIL import Image

    with Image.open(path) as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("L")))
    if pixels.shape != (_ROWS * _SIDE, _COLUMNS * _SIDE):
        raise UserError(f"{path} must have {_COLUMNS * _SIDE}×{_ROWS * _SIDE} pixels, got {pixels.shape[::-1]}")
    digits = pixels.view(_ROWS, _SIDE, _COLUMNS, _SIDE).transpose(1, 2).reshape(-1, 1, _SIDE, _SIDE)
    return F.pad(digits, [_MARGIN] * 4)

"""IDX files, the format of MNIST and its descendants, and the data set Fashion-MNIST that comes in them.

A file is the magic number (0, 0, type, number of dimensions), each dimension as a big-endian uint32, then the values in
row-major order (LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .images import ImagesInMemory

# Where the Debian package dataset-fashion-mnist puts its files.
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    *("T-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped or not; raises `UserError` if it isn't one."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    dimensions = content[3] if len(content) >= 4 else 0
    if content[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or not dimensions or len(content) < 4 + 4 * dimensions:
        raise UserError(f"{path} is not an IDX file of unsigned bytes")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if len(values) != math.prod(shape):
        raise UserError(f"{path} holds {len(values)} values where its header promises {math.prod(shape)}")
    return values.reshape(shape)


def fashion_mnist(folder: Path | None = None, *, part: str = "train") -> ImagesInMemory:
    """Fashion-MNIST: 28×28 grey images of ten kinds of clothing, 60 000 in part "train", 10 000 in part "t10k".

    `folder` defaults to that of the Debian package dataset-fashion-mnist. Source: Xiao, Rasul and Vollgraf,
    "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (2017).
    """
    folder = folder or FASHION_MNIST_FOLDER
    pixels = read_idx(_find(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"))
    if pixels.ndim != 3 or pixels.shape[1] != pixels.shape[2] or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"the IDX files in {folder} don't belong together: images {pixels.shape}, labels {labels.shape}"
        )
    if len(labels) == 0 or labels.max() >= len(FASHION_MNIST_CLASSES):
        raise UserError(
            f"the labels in {folder} must be numbers from 0 to {len(FASHION_MNIST_CLASSES) - 1}, and not none"
        )
    return ImagesInMemory(
        torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(labels.astype(np.int64)), FASHION_MNIST_CLASSES
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UserError(
        f"{folder} has no {name} or {name}.gz: install the Debian package dataset-fashion-mnist, or give the folder "
        "with the four IDX files as --data"
    )

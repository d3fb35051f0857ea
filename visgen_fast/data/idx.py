"""IDX files, the format of MNIST and its descendants, and the data set Fashion-MNIST that comes in them.

A file is the magic number (0, 0, type, number of dimensions), each dimension as a big-endian uint32, then the values in
row-major order (LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch

from ..errors import UserError
from ..untrusted import MOST_IDX_DIMENSIONS, MOST_IDX_VALUES, open_file
from .images import ImagesInMemory

# Where the Debian package dataset-fashion-mnist puts its files.
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    *("T-shirt", "trousers", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gzipped or not; raises `UserError` if it isn't one.

    No more is unpacked than the header promises, which is at most `untrusted.MOST_IDX_VALUES`.
    """
    try:
        with open_file(path) as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw as file:
                shape = _read_shape(file, path)
                promised = math.prod(shape)
                content = file.read(promised + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(content) != promised:
        holds = "more" if len(content) > promised else str(len(content))
        raise UserError(f"{path} holds {holds} values where its header promises {promised}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_shape(file: BinaryIO, path: Path) -> tuple[int, ...]:
    """The sizes that an IDX file's header promises."""
    magic = file.read(4)
    dimensions = magic[3] if len(magic) == 4 else 0
    sizes = file.read(4 * dimensions)
    if magic[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or not dimensions or len(sizes) != 4 * dimensions:
        raise UserError(f"{path} is not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{dimensions}I", sizes)
    # A size of 0 must not hide others that are too large for an array.
    if dimensions > MOST_IDX_DIMENSIONS or math.prod(size or 1 for size in shape) > MOST_IDX_VALUES:
        raise UserError(
            f"{path} promises an array of {dimensions} dimensions and {math.prod(shape)} values; at most "
            f"{MOST_IDX_DIMENSIONS} dimensions and {MOST_IDX_VALUES} values are read"
        )
    return shape


def fashion_mnist(folder: Path | None = None, *, part: str = "train") -> ImagesInMemory:
    """Fashion-MNIST: 28×28 grey images of ten kinds of clothing, 60 000 in part "train", 10 000 in part "t10k".

    `folder` defaults to that of the Debian package dataset-fashion-mnist. Source: Xiao, Rasul and Vollgraf,
    "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (2017).
    """
    missing = "install the Debian package dataset-fashion-mnist, or give the folder with the four IDX files as --data"
    return labelled_images(folder or FASHION_MNIST_FOLDER, part, FASHION_MNIST_CLASSES, missing)


def labelled_images(folder: Path, part: str, classes: Sequence[str], missing: str) -> ImagesInMemory:
    """The grey images of MNIST's pair of files in a folder, `<part>-images-idx3-ubyte` and `<part>-labels-idx1-ubyte`.

    missing: what to do where there are none. `UserError` for files that are not there or don't belong together.
    """
    pixels = read_idx(_find(folder, f"{part}-images-idx3-ubyte", missing))
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte", missing))
    squares = pixels.ndim == 3 and pixels.shape[1] == pixels.shape[2] > 0
    if not squares or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"the IDX files in {folder} don't belong together: images {pixels.shape}, labels {labels.shape}"
        )
    if len(labels) == 0 or labels.max() >= len(classes):
        raise UserError(f"the labels in {folder} must be numbers from 0 to {len(classes) - 1}, and not none")
    return ImagesInMemory(torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(labels.astype(np.int64)), classes)


def _find(folder: Path, name: str, missing: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UserError(f"{folder} has no {name} or {name}.gz: {missing}")

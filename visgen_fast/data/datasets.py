"""The data sets by name, at any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .emoji import emoji
from .folder import ImageFolder
from .idx import fashion_mnist
from .images import Images, digits, resized
from .mnist import mnist
from .photographs import photographs
from .tar_shards import INDEX, TarShards


@dataclass(frozen=True)
class DataSet:
    """How the images of a data set are opened.

    size: pixels a side, unless another size is asked for. train: all images that training may see, given the folder
    they lie in (None: the usual place) and the size. held_out: those that the data set keeps for tests, likewise; None
    where it keeps none.
    """

    size: int
    train: Callable[[Path | None, int], Images]
    held_out: Callable[[Path | None, int], Images] | None = None


def _folder(folder: Path | None, size: int) -> Images:
    assert folder is not None  # a folder of one's own has no usual place
    return (TarShards if (folder / INDEX).exists() else ImageFolder)(folder, size)


# The name of images of one's own, which are given by their folder.
FOLDER = "folder"

DATASETS = {
    "digits": DataSet(8, lambda _, size: resized(digits(), size)),
    "fashion-mnist": DataSet(
        28,
        lambda folder, size: resized(fashion_mnist(folder), size),
        lambda folder, size: resized(fashion_mnist(folder, part="t10k"), size),
    ),
    "mnist": DataSet(
        28,
        lambda folder, size: resized(mnist(folder), size),
        lambda folder, size: resized(mnist(folder, part="t10k"), size),
    ),
    "photographs": DataSet(
        32,
        lambda _, size: photographs(size),
        lambda _, size: photographs(size, part="held out"),
    ),
    "emoji": DataSet(32, lambda folder, size: emoji(size, folder)),
    FOLDER: DataSet(64, _folder),
}

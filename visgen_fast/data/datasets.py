"""The data sets by name, at any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .clips import ClipFolder
from .emoji import emoji
from .folder import ImageFolder
from .idx import fashion_mnist
from .images import Images, digits, held_out_part, resized, training_part
from .mnist import mnist
from .moving_digits import MovingDigits
from .photographs import photographs
from .tar_shards import INDEX, TarShards


@dataclass(frozen=True)
class DataSet:
    """How the images of a data set are opened, or its clips.

    size: pixels a side, unless another size is asked for. train: all images that training may see, given the folder
    they lie in (None: the usual place) and the size, of clips the number of frames too. held_out: those that the data
    set keeps for tests, likewise; None where it keeps none. frames: of clips, unless another number is asked for.
    """

    size: int
    train: Callable[..., Images]
    held_out: Callable[..., Images] | None = None
    frames: int | None = None


def _folder(folder: Path | None, size: int) -> Images:
    assert folder is not None  # a folder of one's own has no usual place
    return (TarShards if (folder / INDEX).exists() else ImageFolder)(folder, size)


def _clips(folder: Path | None, size: int, frames: int) -> Images:
    assert folder is not None
    return ClipFolder(folder, size, frames)


def _moving_digits(part: Callable[[Images], Images], **options: int) -> Callable[..., Images]:
    """Clips of one part of the digits."""

    def opened(_: Path | None, size: int, frames: int) -> Images:
        try:
            return MovingDigits(part(digits()), size=size, frames=frames, **options)
        except ValueError as error:
            raise UserError(str(error)) from error

    return opened


# The names of images, and of clips, of one's own, which are given by their folder.
FOLDER, CLIPS = "folder", "clips"

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
    "moving-digits": DataSet(
        20, _moving_digits(training_part), _moving_digits(held_out_part, seed=1, clips=5), frames=9
    ),
    CLIPS: DataSet(64, _clips, frames=9),
}

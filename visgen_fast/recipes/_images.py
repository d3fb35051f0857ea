"""The images of recipes that train on any of several data sets and hold some images out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..data.folder import ImageFolder
from ..data.idx import FASHION_MNIST_FOLDER, fashion_mnist
from ..data.images import Images, digits, held_out_part, training_part
from ..data.photographs import photographs
from ..errors import UserError
from ..training.bounds import AtLeast
from ..training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class ImageSettings(TrainingSettings):
    """Training on images of one's choice."""

    dataset: Literal["fashion-mnist", "digits", "photographs", "folder"] = "fashion-mnist"
    """fashion-mnist: 28×28 grey; digits: 8×8 grey; photographs: 32×32 colour crops; folder: images of one's own."""
    data: str = ""
    """The folder: of one's own images, or, where it isn't the usual place, of the IDX files of fashion-mnist."""
    size: Annotated[int, AtLeast(1)] = 64
    """One's own images are resized and cropped to this many pixels a side."""


def images(settings: ImageSettings) -> Images:
    """The images to train on."""
    if settings.dataset == "fashion-mnist":
        return fashion_mnist(Path(settings.data or FASHION_MNIST_FOLDER))
    if settings.dataset == "photographs":
        return photographs()
    return training_part(_whole(settings))


def held_out(settings: ImageSettings) -> Images:
    """Those kept from training: the test part of a data set that has one, else every tenth image."""
    if settings.dataset == "fashion-mnist":
        return fashion_mnist(Path(settings.data or FASHION_MNIST_FOLDER), part="t10k")
    if settings.dataset == "photographs":
        return photographs(part="held out")
    return held_out_part(_whole(settings))


def _whole(settings: ImageSettings) -> Images:
    if settings.dataset == "digits":
        return digits()
    if not settings.data:
        raise UserError("--dataset folder needs the folder as --data")
    return ImageFolder(Path(settings.data), settings.size)

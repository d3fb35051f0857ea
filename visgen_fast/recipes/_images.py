"""The images of recipes: any data set by name, or a folder of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from ..data.arrow import is_table
from ..data.buckets import in_buckets
from ..data.datasets import DATASETS, FOLDER
from ..data.hugging_face import HuggingFaceImages
from ..data.images import Images, held_out_part, training_part
from ..errors import UserError
from ..training.bounds import AtLeast, Between
from ..training.settings import TrainingSettings
from ..untrusted import MOST_IMAGE_SIDE


@dataclass(frozen=True, kw_only=True)
class ImageSettings(TrainingSettings):
    """Training on images of one's choice.

    `KIND` says what the data sets hold, and `OWN` which of them is a folder of one's own.
    """

    dataset: str = "fashion-mnist"
    """digits, fashion-mnist, photographs, emoji, or a folder of images, which may have one sub-folder a class,
    of tar files that visgen-fast index was run for, or of Arrow or Parquet files of Hugging Face datasets."""
    data: str = ""
    """Where the files of that data set lie, if that isn't the usual place."""
    size: Annotated[int | None, AtLeast(1), Between(1, MOST_IMAGE_SIDE)] = None
    """Pixels a side that images are resized and cropped to; by default the data set's own."""
    buckets: Annotated[int, Between(1, 64)] = 1
    """Folders of pictures: so many shapes, from twice as high to twice as wide, to which pictures are cropped in the
    place of squares, for networks that take any; every batch is of one shape."""
    image_column: str = ""
    """Arrow and Parquet: the column of the images; by default image."""
    label_column: str = ""
    """Arrow and Parquet: the column of the classes; by default label where there is one, else there are none."""
    text_column: str = ""
    """Arrow and Parquet: the column of texts about the images, in the place of classes."""

    OWN: ClassVar[str] = FOLDER
    KIND: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        super().__post_init__()
        dataset, data = self.dataset, self.data
        if dataset not in DATASETS or (dataset == self.OWN and not data):
            if data:
                raise UserError(f"--data must go with the name of a data set, got --dataset {dataset}")
            dataset, data = self.OWN, dataset
        if (DATASETS[dataset].frames is None) != (DATASETS[self.OWN].frames is None):
            names = ", ".join(self._names())
            raise UserError(f"--dataset must be of {self.KIND} for this recipe, {names} or a folder, got {dataset}")
        # What a run keeps of its settings must say all, and not depend on the working directory.
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "data", str(Path(data).absolute()) if data else "")
        object.__setattr__(self, "size", DATASETS[dataset].size if self.size is None else self.size)
        if self.text_column and self.label_column:
            raise UserError("--label-column and --text-column say what a picture is called: give one of them")

    @cached_property
    def images(self) -> Images:
        """All images that training may see, opened once."""
        if self.dataset == self.OWN and not Path(self.data).is_dir():
            names = ", ".join(self._names())
            raise UserError(f"{self.data} is not a folder; the data sets with names are {names}")
        columns = {"label_column": self.label_column, "text_column": self.text_column}
        if self.image_column:
            columns["image_column"] = self.image_column
        if self.dataset == FOLDER and is_table(Path(self.data)):
            folder, size = self._wanted
            return HuggingFaceImages(folder, size, **columns)
        for name, column in columns.items():
            if column:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is for folders of Arrow or Parquet files, got {self.data or self.dataset}")
        return DATASETS[self.dataset].train(*self._wanted)

    @classmethod
    def _names(cls) -> list[str]:
        """The data sets of this kind, but for that of one's own."""
        own = DATASETS[cls.OWN].frames is None
        return [name for name, data in DATASETS.items() if name != cls.OWN and (data.frames is None) == own]

    @property
    def _wanted(self) -> tuple[Any, ...]:
        """What a data set is opened with: the folder, None for its usual place, and the size."""
        assert self.size is not None  # it is set where it wasn't given
        return Path(self.data) if self.data else None, self.size


def all_images(settings: ImageSettings) -> Images:
    """All the images that training may see."""
    return _in_buckets(settings, settings.images)


def _in_buckets(settings: ImageSettings, images: Images) -> Images:
    if settings.buckets == 1:
        return images
    if getattr(settings, "cache", ""):
        raise UserError("--cache keeps latents of one shape, and does not go with --buckets")
    return in_buckets(images, settings.buckets)


def training_images(settings: ImageSettings) -> Images:
    """Those of them that `held_out_images` leaves."""
    if DATASETS[settings.dataset].held_out is not None:
        return _in_buckets(settings, settings.images)
    if len(settings.images) < 2:
        raise UserError(
            f"{settings.data or settings.dataset} has 1 image, too few to train on some and hold out others"
        )
    return _in_buckets(settings, training_part(settings.images))


def held_out_images(settings: ImageSettings) -> Images:
    """Those kept from training: the test part of a data set that has one, else every tenth image."""
    kept = test_part(settings)
    return held_out_part(settings.images) if kept is None else kept


def test_part(settings: ImageSettings) -> Images | None:
    """The test part of a data set that has one, which no recipe trains on."""
    held_out = DATASETS[settings.dataset].held_out
    return None if held_out is None else held_out(*settings._wanted)

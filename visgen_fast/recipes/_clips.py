"""The clips of recipes: a data set by name, or a folder of one's own videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ..data.datasets import CLIPS, DATASETS
from ..data.images import ImageFormat
from ..training.bounds import Between
from ..untrusted import MOST_FRAMES
from ._images import ImageSettings


@dataclass(frozen=True, kw_only=True)
class ClipSettings(ImageSettings):
    """Training on clips of one's choice."""

    OWN: ClassVar[str] = CLIPS
    KIND: ClassVar[str] = "clips"

    dataset: str = "moving-digits"
    """moving-digits, or a folder of videos and GIFs, which may have one sub-folder a class."""
    frames: Annotated[int | None, Between(1, MOST_FRAMES)] = None
    """Frames of a clip; by default the data set's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "frames", DATASETS[self.dataset].frames if self.frames is None else self.frames)

    @property
    def _wanted(self) -> tuple[Any, ...]:
        return *super()._wanted, self.frames


def frames_in(images: ImageFormat) -> int:
    """The frames of clips of this format; ValueError for images."""
    if images.frames is None:
        raise ValueError("the model is of clips, and these are images: a data set of clips must be given")
    return images.frames

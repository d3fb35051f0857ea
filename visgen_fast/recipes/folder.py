"""Your own images: any folder, optionally one sub-folder a class, by rectified flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..data.folder import ImageFolder
from ..training.bounds import AtLeast
from ._rectified_flow import RectifiedFlowSettings
from ._rectified_flow import rectified_flow_system as system

__all__ = ["Settings", "images", "system"]


@dataclass(frozen=True, kw_only=True)
class Settings(RectifiedFlowSettings):
    """Rectified flow on a folder of images, conditional on the class where sub-folders give classes."""

    data: str
    """The folder: images, or one sub-folder of images a class. Files that aren't images are named and skipped."""
    size: Annotated[int, AtLeast(1)] = 64
    """Images are resized and cropped to this many pixels a side."""
    horizontal_flip: bool = True
    patch_size: int = 4
    width: int = 384
    depth: int = 8
    heads: int = 6
    learning_rate: float = 3e-4
    steps: int = 100_000
    sample_every: int = 2000
    checkpoint_every: int = 2000
    ema_decay: float = 0.9998
    workers: int = 2


def images(settings: Settings) -> ImageFolder:
    """The images of the folder `settings.data`; its sub-folders are the classes."""
    return ImageFolder(Path(settings.data), settings.size)

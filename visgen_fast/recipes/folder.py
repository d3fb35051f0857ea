"""Your own pictures: any folder, optionally one sub-folder a class, by rectified flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..training.data.folder import PictureFolder
from ._rectified_flow import RectifiedFlowSettings
from ._rectified_flow import rectified_flow_system as system

__all__ = ["Settings", "pictures", "system"]


@dataclass(frozen=True, kw_only=True)
class Settings(RectifiedFlowSettings):
    """Rectified flow on a folder of pictures, conditional on the class where sub-folders give classes."""

    LEAST: ClassVar[dict[str, float]] = {**RectifiedFlowSettings.LEAST, "size": 1}

    data: str
    """The folder: pictures, or one sub-folder of pictures a class. Files that aren't pictures are named and skipped."""
    size: int = 64
    """Pictures are resized and cropped to this many pixels a side."""
    mirror: bool = True
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


def pictures(settings: Settings) -> PictureFolder:
    """The pictures of the folder `settings.data`; its sub-folders are the classes."""
    return PictureFolder(Path(settings.data), settings.size)

"""Consistency distillation: states on one path of the teacher's lead to one image.

Song et al., "Consistency models", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..systems.student import TrajectoryStudent
from ..training.bounds import Between
from ._images import all_images
from ._students import PRESETS, TrajectorySettings, trajectory_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TrajectorySettings):
    """A consistency model of the classes' images."""

    boundary: Annotated[float, Between(0, 1)] = 0.0
    intervals: Annotated[int, Between(1, 4096)] = 32
    """Of the grid; the teacher takes a step across one."""
    penalty: Literal["square", "pseudo_huber"] = "square"
    """Of a sample's error."""


def system(settings: Settings, images: ImageFormat) -> TrajectoryStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    options: dict[str, Any] = {"steps": settings.intervals, "penalty": settings.penalty}
    return trajectory_student("consistency", settings, images, sampler="consistency", **options)


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

"""Shortcut models: a step of any length is two steps of half its length, by the model itself.

Frans et al., "One step diffusion via shortcut models", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..systems.student import TrajectoryStudent
from ..training.bounds import Between
from ._images import all_images
from ._students import PRESETS, TimedSettings, trajectory_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TimedSettings):
    """A shortcut model of the classes' images."""

    boundary: Annotated[float, Between(0, 1)] = 0.75
    grid: Annotated[int, Between(2, 4096)] = 128
    """Steps of the finest grid, a power of two."""
    by_average: bool = True
    """Half steps are those of the averaged weights."""


def system(settings: Settings, images: ImageFormat) -> TrajectoryStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    student = {"average": settings.by_average}
    return trajectory_student("shortcut", settings, images, steps=settings.grid, student=student)


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

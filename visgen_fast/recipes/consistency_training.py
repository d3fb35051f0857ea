"""Consistency training: two noised versions of an image, by the same noise, lead to one image; without a teacher.

Song et al., "Consistency models", 2023; Song and Dhariwal, "Improved techniques for training consistency models", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..errors import UserError
from ..systems.student import TrajectoryStudent
from ..training.bounds import Between
from ._images import all_images
from ._students import PRESETS, TrajectorySettings, trajectory_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TrajectorySettings):
    """A consistency model of the classes' images, from data."""

    boundary: Annotated[float, Between(0, 1)] = 0.25
    intervals: tuple[int, ...] = (8, 16, 32, 64)
    """Of grids that follow one another, each for an equal share of the run."""
    penalty: Literal["square", "pseudo_huber"] = "pseudo_huber"
    """Of a sample's error."""


def system(settings: Settings, images: ImageFormat) -> TrajectoryStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    if settings.teacher:
        raise UserError("--teacher is of consistency-distillation: this recipe learns from images alone")
    counts = settings.intervals
    if not counts or min(counts) < 1:
        raise ValueError(f"intervals must be numbers of at least 1, got {' '.join(map(str, counts)) or 'none'}")
    grids = [(settings.steps * place // len(counts), count) for place, count in enumerate(counts)]
    options: dict[str, Any] = {"steps": counts[0], "penalty": settings.penalty}
    student = {"grids": grids}
    return trajectory_student(
        "consistency_training", settings, images, sampler="consistency", student=student, **options
    )


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

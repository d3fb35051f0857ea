"""sCM: a consistency model in continuous time, on a path of angles.

Lu and Song, "Simplifying, stabilizing and scaling continuous-time consistency models", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.densities import Normal
from ..diffusion.schedules import CosineVP
from ..diffusion.times import LevelTimes
from ..systems.student import TrajectoryStudent
from ..training.bounds import AtLeast, Between
from ._images import all_images
from ._students import PRESETS, TrajectorySettings, trajectory_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TrajectorySettings):
    """A continuous-time consistency model of the classes' images. Without a teacher its path is that of angles."""

    boundary: Annotated[float, Between(0, 1)] = 0.0
    mean: Annotated[float, Between(-5, 5)] = -0.4
    """Mean of ln(σ/α) in training."""
    std: Annotated[float, Between(1e-2, 10)] = 1.4
    """Standard deviation of ln(σ/α) in training."""
    warmup: Annotated[int, AtLeast(0)] = 300
    """Steps over which the derivative comes to count; 10,000 in the paper."""


def system(settings: Settings, images: ImageFormat) -> TrajectoryStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    made = trajectory_student(
        *("scm", settings, images),
        sampler="consistency",
        way=(CosineVP(), "v"),
        penalty="normalized",
        student={"warmup": settings.warmup},
    )
    made.objective.times = LevelTimes(made.schedule, Normal(-2 * settings.mean, 2 * settings.std))
    return made


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

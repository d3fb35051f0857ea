"""MeanFlow: a few-step model of the mean velocity between any two times, from a teacher or from images alone.

Geng et al., "Mean flows for one-step generative modeling", 2025; with the predicted tangent, "Improved mean flows",
2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..data.images import ImageFormat
from ..systems.student import TrajectoryStudent
from ._images import all_images
from ._students import PRESETS, TimedSettings, trajectory_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TimedSettings):
    """MeanFlow of the classes' images."""

    mean: float = -0.4
    tangent: Literal["path", "predicted"] = "path"
    """The direction that time is differentiated along: the path's, or the one that the model predicts itself."""
    penalty: Literal["square", "adaptive"] = "adaptive"
    """Of a sample's error: its square, or that over itself, so that large errors count no more than small ones."""


def system(settings: Settings, images: ImageFormat) -> TrajectoryStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    options: dict[str, Any] = {"tangent": settings.tangent, "penalty": settings.penalty}
    return trajectory_student("mean_flow", settings, images, **options)


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

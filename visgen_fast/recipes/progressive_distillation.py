"""Progressive distillation: in rounds, a step of the student is two steps of the round before.

Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", 2022.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..systems.student import ProgressiveStudent
from ..training.bounds import Between
from ._images import all_images
from ._students import PRESETS, TrajectorySettings, parts_of
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TrajectorySettings):
    """A progressively distilled model of the classes' images."""

    boundary: Annotated[float, Between(0, 1)] = 0.0
    grids: tuple[int, ...] = (16, 8, 4, 2, 1)
    """Steps of each round's student, each half of the one before; the rounds have equal shares of the run."""


def system(settings: Settings, images: ImageFormat) -> ProgressiveStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    rounds = [(settings.steps * place // len(settings.grids), count) for place, count in enumerate(settings.grids)]
    made, objective, drawing = parts_of("progressive", settings, images, "euler")
    student = ProgressiveStudent(
        *(copy.deepcopy(made.model), made.model, objective, images.shape, drawing, made.teacher), grids=rounds
    )
    student.remembered = {"teacher": made.origin}
    return student


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

"""Moment matching: what a few-step model draws has its teacher's mean image at every noise level.

Salimans et al., "Multistep distillation of diffusion models via moment matching", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..systems.matching import MatchingStudent
from ..training.bounds import AtLeast
from ._images import all_images
from ._students import PRESETS, StudentSettings, matching_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(StudentSettings):
    """A few-step model by moment matching."""

    every: Annotated[int, AtLeast(1)] = 2
    """The model learns in every so many steps, and the critic in each."""


def system(settings: Settings, images: ImageFormat) -> MatchingStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    return matching_student("moment_matching", settings, images, settings.every)


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

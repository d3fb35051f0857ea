"""DMD2: what a few-step model draws is matched to its teacher's distribution, by a critic that learns its own.

Yin et al., "Improved distribution matching distillation for fast image synthesis", 2024.
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
    """A few-step model by distribution matching."""

    every: Annotated[int, AtLeast(1)] = 5
    """The model learns in every so many steps, and the critic in each."""


def system(settings: Settings, images: ImageFormat) -> MatchingStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    return matching_student("dmd2", settings, images, settings.every)


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

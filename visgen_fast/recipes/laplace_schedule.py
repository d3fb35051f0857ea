"""Laplace schedule: v-prediction, trained most at the levels around λ = 0, drawn along the cosine schedule.

Hang et al., "Improved noise schedule for diffusion training", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.densities import Laplace
from ..diffusion.schedules import CosineVP
from ..diffusion.times import LevelTimes
from ..systems.prior import PriorSystem
from ..training.bounds import Between
from ._diffusion import DIT_PRESETS, DiTSettings, dit_system
from ._images import all_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional diffusion with levels λ of a Laplace density."""

    dataset: str = "digits"
    mean: Annotated[float, Between(-15, 15)] = 0.0
    """The λ that is trained most."""
    scale: Annotated[float, Between(1e-2, 100)] = 0.5
    """Width of the density in λ."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    times = LevelTimes(CosineVP(), Laplace(settings.mean, settings.scale))
    return dit_system(settings, images, CosineVP(), "v", times)


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)

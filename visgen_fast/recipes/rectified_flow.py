"""Rectified flow: images of classes, by a transformer that predicts the velocity from image to noise.

Liu, Gong and Liu, "Flow straight and fast", 2023. Times near the middle: Esser et al., "Scaling rectified flow
transformers", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.images import ImageFormat
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..systems.prior import PriorSystem
from ._diffusion import DIT_PRESETS, DiTSettings, dit_system
from ._images import all_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional rectified flow."""

    dataset: str = "digits"


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    return dit_system(settings, images, RectifiedFlow(), "velocity", LogitNormalTimes(mean=0.0, std=1.0))


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)

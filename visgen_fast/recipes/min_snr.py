"""Min-SNR: v-prediction on the cosine schedule, whose easy levels count no more than the hard ones.

Hang et al., "Efficient diffusion training via Min-SNR weighting strategy", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.schedules import CosineVP
from ..diffusion.times import UniformTimes
from ..diffusion.weights import MinSNR
from ..systems.prior import PriorSystem
from ..training.bounds import Between
from ._diffusion import DIT_PRESETS, DiTSettings, dit_system
from ._images import all_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional diffusion with Min-SNR's weights."""

    dataset: str = "digits"
    gamma: Annotated[float, Between(1e-3, 1e6)] = 5.0
    """The signal-to-noise ratio at which the weight of x stops to grow."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    weight = MinSNR(settings.gamma)
    return dit_system(settings, images, CosineVP(), "v", UniformTimes(), weight=weight)


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)

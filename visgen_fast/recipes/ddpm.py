"""DDPM: a U-Net that predicts the noise of a thousand levels, drawn by ancestral sampling.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.table_schedules import DiscreteVP
from ..diffusion.times import DiscreteTimes
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._diffusion import of_pixels
from ._images import all_images
from ._unet import UNET_PRESETS, UNetSettings, unet
from .recipe import Recipe

_LEVELS = 1000


@dataclass(frozen=True, kw_only=True)
class Settings(UNetSettings):
    """Class-conditional diffusion as in DDPM."""

    dataset: str = "digits"
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 100
    """Steps from noise to image; the paper's are 1000, one for each level."""
    variance: Literal["small", "large"] = "small"
    """Of the noise that a step adds: that of the posterior, or that of the forward step."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    model = unet(settings, images)
    objective = DiffusionObjective(DiscreteVP.linear(_LEVELS), "epsilon", DiscreteTimes(_LEVELS))
    return PriorSystem(*of_pixels(settings, images, model, objective, "ddpm", variance=settings.variance))


RECIPE = Recipe(Settings, all_images, system, presets=UNET_PRESETS)

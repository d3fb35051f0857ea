"""EDM: a preconditioned network, trained at log-normal noise, drawn by Heun's method.

Karras et al., "Elucidating the design space of diffusion-based generative models", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.densities import Normal
from ..diffusion.predictions import edm
from ..diffusion.schedules import KarrasVE
from ..diffusion.times import LevelTimes
from ..diffusion.weights import EDMWeight
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._diffusion import DIT_PRESETS, DiTSettings, dit_system
from ._images import all_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional diffusion as in EDM."""

    dataset: str = "digits"
    mean: Annotated[float, Between(-5, 5)] = -1.2
    """Mean of ln σ in training."""
    std: Annotated[float, Between(1e-2, 10)] = 1.2
    """Standard deviation of ln σ in training."""
    data_std: Annotated[float, Between(1e-2, 10)] = 0.5
    """Standard deviation of the images' pixels."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 18
    """Steps of the solver from noise to image, of two network calls each."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    times = LevelTimes(KarrasVE(), Normal(-2 * settings.mean, 2 * settings.std))
    kind, weight = edm(settings.data_std), EDMWeight(settings.data_std)
    return dit_system(settings, images, KarrasVE(), kind, times, sampler="heun", weight=weight)


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)

"""Energy: an energy-based model by denoising score matching, whose gradient is what a diffusion model predicts.

Salimans and Ho, "Should EBMs model the energy or the score?", 2021; Du et al., "Reduce, reuse, recycle", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.schedules import CosineVP
from ..diffusion.times import UniformTimes
from ..energies.energy import EnergyModel
from ..systems.energy import EnergySystem
from ._diffusion import DIT_PRESETS, DiTSettings, dit, of_pixels
from ._images import all_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """A class-conditional energy."""

    dataset: str = "digits"


def system(settings: Settings, images: ImageFormat) -> EnergySystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    schedule = CosineVP()
    model = EnergyModel(dit(settings, images), schedule.sigma)
    objective = DiffusionObjective(schedule, "epsilon", UniformTimes())
    return EnergySystem(*of_pixels(settings, images, model, objective, "ddpm"))


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)

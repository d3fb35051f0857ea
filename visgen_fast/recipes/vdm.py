"""VDM: diffusion trained on the bound of its likelihood, with a schedule that is learned; reports bits per dimension.

Kingma et al., "Variational diffusion models", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.learned_schedule import LearnedVP
from ..diffusion.low_discrepancy_times import LowDiscrepancyTimes
from ..diffusion.objective import DiffusionObjective
from ..diffusion.times import UniformTimes
from ..diffusion.weights import ELBO
from ..systems.variational import VariationalSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._diffusion import of_pixels
from ._images import held_out_images, training_images
from ._unet import UNET_PRESETS, UNetSettings, unet
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(UNetSettings):
    """Class-conditional diffusion as a model of likelihood. As in the paper, the U-Net keeps the resolution."""

    dataset: str = "digits"
    multipliers: tuple[int, ...] = (1,)
    depth: int = 8
    attention: int = 0
    log_snr_min: Annotated[float, Between(-20, 0)] = -5.0
    """λ of pure noise at the beginning of training; it is learned."""
    log_snr_max: Annotated[float, Between(0, 20)] = 13.3
    """λ of the image at the beginning of training; it is learned."""
    frequencies: Annotated[tuple[int, ...], Between(0, 10)] = (7, 8)
    """Numbers n whose sin(2ⁿπ·x) and cos(2ⁿπ·x) the network sees beside x; 7 and 8 tell a pixel's 256 values apart."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 100
    """Steps of ancestral sampling from noise to image."""


def system(settings: Settings, images: ImageFormat) -> VariationalSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    model = unet(settings, images, frequencies=settings.frequencies, conditioning="log_snr")
    schedule = LearnedVP(settings.log_snr_min, settings.log_snr_max, learn_ends=True)
    times = LowDiscrepancyTimes(UniformTimes(), seed=settings.seed)
    objective = DiffusionObjective(schedule, "epsilon", times, weight=ELBO(), conditioning="log_snr")
    return VariationalSystem(*of_pixels(settings, images, model, objective, "ddpm"))


_LEVEL = {"multipliers": (1,), "depth": 8}  # which a U-Net's presets would have otherwise
PRESETS = {name: {**preset, **_LEVEL} for name, preset in UNET_PRESETS.items()}
PRESETS["digits"] |= {"depth": 3, "frequencies": (3, 4)}  # digits have 17 values
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

"""Latent diffusion: a diffusion transformer on the latents of a trained tokenizer or autoencoder.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022; as a rectified flow of a
transformer, Ma et al., "SiT", 2024. Latents of more numbers are trained at times nearer to noise: Zheng et al.,
"Diffusion transformers with representation autoencoders", 2025, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import RectifiedFlow
from ..systems.prior import PriorSystem
from ._diffusion import HOURS, MINUTES, DiTSettings, classes_of, dit, drawing
from ._images import held_out_images, training_images
from ._latents import ShiftedSettings, latents_of, shifted_times
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(ShiftedSettings, DiTSettings):
    """Class-conditional rectified flow in latents."""

    patch_size: int = 1


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    stage, remembered = latents_of(settings, images)
    channels, height, width = stage.shape
    model = dit(settings, replace(images, channels=channels, height=height, width=width))
    times, shift = shifted_times(settings, stage)
    objective = DiffusionObjective(RectifiedFlow(), "velocity", times)
    prior = DiffusionPrior(model, objective, drawing(settings, "euler", shift=shift))
    made = PriorSystem(prior, classes_of(settings, images), stage)
    made.remembered = remembered
    return made


PRESETS: dict[str, dict[str, Any]] = {"digits": MINUTES, "fashion-mnist": {**HOURS, "width": 256, "depth": 6}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

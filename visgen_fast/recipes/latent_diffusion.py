"""Latent diffusion: a diffusion transformer on the latents of a trained tokenizer or autoencoder.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022; as a rectified flow of a
transformer, Ma et al., "SiT", 2024. Latents of more numbers are trained at times nearer to noise: Zheng et al.,
"Diffusion transformers with representation autoencoders", 2025, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ..data.images import ImageFormat
from ..diffusion.forcing import ForcingObjective
from ..diffusion.levels import InARow, LevelsPrior
from ..diffusion.objective import DiffusionObjective
from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import RectifiedFlow
from ..systems.prior import PriorSystem
from ..tokenizers.first_stage import FirstStage
from ._diffusion import HOURS, MINUTES, DiTSettings, classes_of, dit, drawing
from ._images import held_out_images, training_images
from ._latents import ShiftedSettings, latents_of, shifted_times
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(ShiftedSettings, DiTSettings):
    """Class-conditional rectified flow in latents."""

    patch_size: int = 1
    levels: Literal["together", "pyramid", "one_by_one"] | None = None
    """Of a first stage of several grids, each of which then has a noise level of its own in training: how they are
    drawn, at one level, each a step behind the one before, or each when that is done; by default one level for all."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    stage, remembered = latents_of(settings, images)
    made = PriorSystem(prior_of(settings, images, stage), classes_of(settings, images), stage)
    made.remembered = remembered
    return made


def prior_of(settings: Settings, images: ImageFormat, stage: FirstStage) -> DiffusionPrior:
    """The prior of a first stage's latents, whose grids have a noise level each if the settings say so."""
    channels, height, width = stage.shape
    latents = replace(images, channels=channels, height=height, width=width)
    times, shift = shifted_times(settings, stage)
    sampler = drawing(settings, "euler", shift=shift)
    if settings.levels is None:
        return DiffusionPrior(dit(settings, latents), DiffusionObjective(RectifiedFlow(), "velocity", times), sampler)
    if not stage.lengths:
        raise ValueError(f"levels must be None for a first stage of one grid, got {settings.levels}")
    if settings.guidance_interval is not None:
        raise ValueError(
            f"guidance_interval must be None where grids have levels of their own, got {settings.guidance_interval}"
        )
    model = InARow(dit(settings, replace(latents, frames=width, width=1)))
    objective = ForcingObjective(RectifiedFlow(), "velocity", times)
    return LevelsPrior(model, objective, sampler, stage.lengths, settings.levels)


PRESETS: dict[str, dict[str, Any]] = {"digits": MINUTES, "fashion-mnist": {**HOURS, "width": 256, "depth": 6}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

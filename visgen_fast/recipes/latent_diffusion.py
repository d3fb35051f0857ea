"""Latent diffusion: a diffusion transformer on the latents of a trained tokenizer or autoencoder.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022; as a rectified flow of a
transformer, Ma et al., "SiT", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..systems.prior import PriorSystem
from ..tokenizers.first_stage import FirstStage
from ._diffusion import HOURS, MINUTES, DiTSettings, classes_of, dit, drawing
from ._first_stage import KINDS, RunBelow, run_below
from ._images import held_out_images, training_images
from .recipe import Recipe

# VQ-VAE-2 has latents on two grids.
AUTOENCODERS = ("autoencoder", "kl-autoencoder", "pyramid-autoencoder", "representation-autoencoder")
OF_ONE_GRID = (*(kind for kind in KINDS if kind != "vq-vae-2"), *AUTOENCODERS)


@dataclass(frozen=True, kw_only=True)
class Settings(RunBelow, DiTSettings):
    """Class-conditional rectified flow in latents."""

    patch_size: int = 1


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    below = run_below(settings, images, OF_ONE_GRID)
    stage = FirstStage(below.reconstructor, images.shape)
    channels, height, width = stage.shape
    model = dit(settings, replace(images, channels=channels, height=height, width=width))
    times = LogitNormalTimes(mean=0.0, std=1.0)
    objective = DiffusionObjective(RectifiedFlow(), "velocity", times)
    prior = DiffusionPrior(model, objective, drawing(settings, "euler"))
    made = PriorSystem(prior, classes_of(settings, images), stage)
    made.remembered = {"first_stage": below.origin}
    return made


PRESETS: dict[str, dict[str, Any]] = {"digits": MINUTES, "fashion-mnist": {**HOURS, "width": 256, "depth": 6}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

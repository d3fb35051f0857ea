"""Latent diffusion: a diffusion transformer on the latents of a trained tokenizer or autoencoder.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022; as a rectified flow of a
transformer, Ma et al., "SiT", 2024. Latents of more numbers are trained at times nearer to noise: Zheng et al.,
"Diffusion transformers with representation autoencoders", 2025, section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..systems.prior import PriorSystem
from ..tokenizers.first_stage import FirstStage
from ..training.bounds import Between
from ._diffusion import HOURS, MINUTES, DiTSettings, classes_of, dit, drawing
from ._first_stage import KINDS, RunBelow, run_below
from ._images import held_out_images, training_images
from .recipe import Recipe

# Numbers of latents whose times are not shifted.
_UNSHIFTED = 4096
# VQ-VAE-2 has latents on two grids.
AUTOENCODERS = ("autoencoder", "kl-autoencoder", "pyramid-autoencoder", "representation-autoencoder")
OF_ONE_GRID = (*(kind for kind in KINDS if kind != "vq-vae-2"), *AUTOENCODERS)


@dataclass(frozen=True, kw_only=True)
class Settings(RunBelow, DiTSettings):
    """Class-conditional rectified flow in latents."""

    patch_size: int = 1
    cache: str = ""
    """A folder to keep the latents of all images in, made at the first use; by default every step encodes its own."""
    time_shift: Annotated[float | None, Between(1, 1000)] = None
    """How far training and sampling are moved towards noise; by default the root of the latents' numbers over 4096,
    but at least 1, as for representation autoencoders."""

    def __post_init__(self) -> None:
        if isinstance(self.cache, str) and self.cache:
            object.__setattr__(self, "cache", str(Path(self.cache).absolute()))
        super().__post_init__()


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    below = run_below(settings, images, OF_ONE_GRID)
    stage = FirstStage(below.reconstructor, images.shape)
    stage.cache = Path(settings.cache) if settings.cache else None
    channels, height, width = stage.shape
    model = dit(settings, replace(images, channels=channels, height=height, width=width))
    shift = settings.time_shift or max(1.0, math.sqrt(math.prod(stage.shape) / _UNSHIFTED))
    times = LogitNormalTimes(mean=math.log(shift), std=1.0)
    objective = DiffusionObjective(RectifiedFlow(), "velocity", times)
    prior = DiffusionPrior(model, objective, drawing(settings, "euler", shift=None if shift == 1 else shift))
    made = PriorSystem(prior, classes_of(settings, images), stage)
    made.remembered = {"first_stage": below.origin}
    return made


PRESETS: dict[str, dict[str, Any]] = {"digits": MINUTES, "fashion-mnist": {**HOURS, "width": 256, "depth": 6}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

"""DCGAN: a convolutional generator that learns from a discriminator, with any of four losses.

Radford, Metz and Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
networks", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.images import ImageFormat
from ..models.dcgan import DCGANDiscriminator, DCGANGenerator
from ..systems.adversarial import GANSystem
from ._gan import SMALL_IMAGES, GANSettings, game, sizes
from ._images import all_images
from .recipe import Recipe

# Of the optimizers' momentum, the paper's.
_BETA1 = 0.5


@dataclass(frozen=True, kw_only=True)
class Settings(GANSettings):
    """A generator of transposed convolutions."""

    steps: int = 5000
    learning_rate: float = 2e-4
    ema_decay: float = 0.995


def system(settings: Settings, images: ImageFormat) -> GANSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    for_both = sizes(settings, images)
    generator = DCGANGenerator(latents=settings.latents, **for_both)
    return GANSystem(generator, DCGANDiscriminator(**for_both), game(settings, _BETA1))


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"steps": 2000, "learning_rate": 1e-3, "width": 64, "checkpoint_every": 1000},
    **dict.fromkeys(SMALL_IMAGES, {"steps": 10_000, "checkpoint_every": 1000}),
    "folder": {"steps": 50_000, "width": 64, "ema_decay": 0.999, "checkpoint_every": 2000, "sample_every": 2000},
}
RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

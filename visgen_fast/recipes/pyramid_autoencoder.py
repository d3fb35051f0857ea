"""An autoencoder with latents at several resolutions, any number of which, the coarse ones first, makes an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..systems.pyramid import PyramidSystem
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import PyramidAutoencoder
from ..training.bounds import AtLeast, Between
from ._images import training_images
from ._tokenizer import TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """An autoencoder on a pyramid of grids."""

    dimensions: Annotated[int, AtLeast(1)] = 8
    """Features of a latent, on every grid."""
    sides: tuple[int, ...] = ()
    """Latents along a side of each grid, rising; by default 1, 2, 4, … and the encoder's own."""
    prefix_dropout: Annotated[float, Between(0, 1)] = 0.5
    """Share of the images that training decodes from a random number of the first grids."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    encoder, decoder = networks(settings, images, settings.dimensions)
    own = images.size // encoder.reduction
    sides = settings.sides or (*(2**k for k in range(own.bit_length()) if 2**k < own), own)
    if sides[-1] != own:
        raise ValueError(f"sides must end with {own}, that of the encoder's own grid, got {sides}")
    tokenizer = PyramidAutoencoder(encoder, decoder, sides, settings.prefix_dropout)
    return tokenizer_system(tokenizer, settings, images, PyramidSystem)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

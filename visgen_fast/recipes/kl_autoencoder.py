"""The autoencoder of latent diffusion: a grid of normal latents; KL, perceptual and adversarial losses.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..systems.kl_autoencoder import KLSystem, smaller
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import KLAutoencoder
from ..training.bounds import AtLeast, Between
from ._images import training_images
from ._tokenizer import TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """An autoencoder whose latents are normal distributions on a grid."""

    dimensions: Annotated[int, AtLeast(1)] = 4
    """Features of a latent."""
    kl: Annotated[float, Between(0, 1e6)] = 1e-6
    """Weight of the divergence of all latents from N(0, 1), in nats over the values of the image."""
    equivariance: bool = False
    """Latents turn and shrink as their images do, for which half of the steps compare moved images (EQ-VAE)."""
    shortcuts: bool = False
    """Pixels pass beside the convolutions that halve and double the resolution (DC-AE); large reductions want it."""
    pixel_loss: Literal["l1", "l2"] = "l1"


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    encoder, decoder = networks(settings, images, settings.dimensions, said=2, shortcuts=settings.shortcuts)
    if settings.equivariance:
        least = encoder.reduction * smaller(images.size // encoder.reduction)[0]
        if settings.adversarial and least < 2**settings.discriminator_layers:
            raise ValueError(
                f"discriminator_layers must halve images of {least} pixels at most {least.bit_length() - 1} times, for "
                f"equivariance shows such small ones, got {settings.discriminator_layers}"
            )
    kind = partial(KLSystem, equivariance=settings.equivariance, seed=settings.seed)
    return tokenizer_system(KLAutoencoder(encoder, decoder, settings.kl), settings, images, kind)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

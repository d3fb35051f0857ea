"""A plain convolutional autoencoder, without codes: what the tokenizers' reconstructions are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import Autoencoder
from ..training.bounds import AtLeast
from ._images import training_images
from ._tokenizer import TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """An autoencoder on a grid of latent vectors."""

    dimensions: Annotated[int, AtLeast(1)] = 32
    """Features of a latent."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    return tokenizer_system(Autoencoder(*networks(settings, images, settings.dimensions)), settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

"""LFQ: images as a grid of codes that are signs, without a codebook; Fashion-MNIST on two CPU cores.

Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023 (MAGVIT-v2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..nn.lookup_free import LookupFree
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import GridTokenizer
from ..training.bounds import AtLeast
from ._images import training_images
from ._tokenizer import TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """A tokenizer by lookup-free quantization."""

    bits: Annotated[int, AtLeast(1)] = 10
    """Signs that make a code; there are 2^bits codes."""
    entropy: float = 0.1
    """Weight of the entropy of each latent's code, less that of the batch's codes."""
    diversity: float = 1.0
    """Weight of the batch's entropy within that."""
    inverse_temperature: float = 100.0
    """Sharpness of the distribution over codes that the entropies are of."""
    commitment: Annotated[float, AtLeast(0)] = 0.25
    """Weight of the latents' distance to their codes."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    encoder, decoder = networks(settings, images, settings.bits)
    quantizer = LookupFree(
        settings.bits,
        entropy_weight=settings.entropy,
        diversity=settings.diversity,
        inverse_temperature=settings.inverse_temperature,
        commitment_weight=settings.commitment,
    )
    return tokenizer_system(GridTokenizer(encoder, quantizer, decoder), settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

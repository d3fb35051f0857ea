"""FSQ: images as a grid of codes that are rounded numbers, without a codebook; Fashion-MNIST on two CPU cores.

Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..data.images import ImageFormat
from ..nn.fsq import FSQ
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import GridTokenizer
from ._images import training_images
from ._tokenizer import TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """A tokenizer by finite scalar quantization."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels that each dimension of a latent is rounded to; their product is the number of codes."""
    bound: Literal["atanh", "tan", "symmetric"] = "atanh"
    """How a dimension is bounded before it is rounded, see visgen_fast.ops.finite_scalar_quantize."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    encoder, decoder = networks(settings, images, len(settings.levels))
    quantizer = FSQ(settings.levels, bound=settings.bound)
    return tokenizer_system(GridTokenizer(encoder, quantizer, decoder), settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

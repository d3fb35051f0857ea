"""VQ-VAE: images as a grid of codes from one codebook; Fashion-MNIST on two CPU cores.

Van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..nn.residual_quantizer import VectorQuantizer
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import GridTokenizer
from ..training.bounds import Between
from ._images import training_images
from ._tokenizer import CodebookSettings, TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(CodebookSettings, TokenizerSettings):
    """A vector-quantized variational autoencoder."""

    metric: Literal["l2", "cosine"] = "l2"
    """What makes a code the nearest: the distance, or the angle between vectors scaled to length 1."""
    learning: Literal["ema", "gradient"] = "ema"
    """Codes follow a moving average of the latents they stand for, or the gradient of their distance to them."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """How the decoder's gradient reaches the encoder past the choice of codes."""
    codebook_decay: Annotated[float, Between(0, 1, "[)")] = 0.99
    """Decay of the moving averages."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    encoder, decoder = networks(settings, images, settings.dimensions)
    quantizer = VectorQuantizer(
        settings.codes,
        settings.dimensions,
        metric=settings.metric,
        gradient=settings.gradient,
        commitment_weight=settings.commitment,
        learning=settings.learning,
        decay=settings.codebook_decay,
        commit="manual",
    )
    return tokenizer_system(GridTokenizer(encoder, quantizer, decoder), settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

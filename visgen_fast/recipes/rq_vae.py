"""RQ-VAE: images as a grid of stacks of codes, each refining the one before; Fashion-MNIST on two CPU cores.

Lee et al., "Autoregressive image generation using residual quantization", 2022: one codebook for all depths and a
commitment to the sums up to each of them. The remedies against codes that add nothing are options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..nn.residual_quantizer import ResidualQuantizer
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import GridTokenizer
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_BEAM, MOST_QUANTIZER_DEPTH
from ._images import training_images
from ._tokenizer import CodebookSettings, TokenizerSettings, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(CodebookSettings, TokenizerSettings):
    """A residual-quantized variational autoencoder."""

    depth: Annotated[int, AtLeast(1), Between(1, MOST_QUANTIZER_DEPTH)] = 4
    """Codes at each position, one depth after another."""
    shared: bool = True
    """One codebook for all depths; --no-shared gives each its own."""
    depth_weights: Literal["equal", "rising"] = "equal"
    """Weights of the depths in that distance: all the same, or in proportion to the number of the depth."""
    gradient: Literal["straight_through", "straight_through_per_depth", "rotation"] = "straight_through"
    """How the decoder's gradient reaches the encoder past the choice of codes."""
    codebook_decay: Annotated[float, Between(0, 1, "[)")] = 0.99
    """Decay of the moving averages that the codes follow."""
    quantizer_dropout: Annotated[float, Between(0, 1)] = 0.0
    """Share of the images that training encodes with a random number of depths only."""
    dropout_multiple_of: Annotated[int, AtLeast(1)] = 1
    """Rounds that number of depths up to a multiple."""
    zero_code: bool = False
    """Keep one code at zero, so that no depth can make a latent's error larger."""
    beam: Annotated[int, AtLeast(1), Between(1, MOST_BEAM)] = 1
    """Prefixes kept by the beam search that chooses codes after training; 1 takes the nearest code at each depth."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    encoder, decoder = networks(settings, images, settings.dimensions)
    quantizer = ResidualQuantizer(
        settings.depth,
        settings.codes,
        settings.dimensions,
        shared=settings.shared,
        gradient=settings.gradient,
        commitment_weight=settings.commitment,
        depth_weights=range(1, settings.depth + 1) if settings.depth_weights == "rising" else None,
        decay=settings.codebook_decay,
        commit="manual",
        dropout=settings.quantizer_dropout,
        dropout_multiple_of=settings.dropout_multiple_of,
        zero_code=settings.zero_code,
        beam=settings.beam,
    )
    return tokenizer_system(GridTokenizer(encoder, quantizer, decoder), settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

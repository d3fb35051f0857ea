"""VQ-VAE-2: images as a coarse grid of codes below a finer one; small photographs on two CPU cores.

Razavi, van den Oord and Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..models.autoencoder import reduction
from ..nn.residual_quantizer import VectorQuantizer
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import VQVAE2
from ..training.bounds import Between
from ._images import training_images
from ._tokenizer import CodebookSettings, TokenizerSettings, dead_below, held_out_images, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(CodebookSettings, TokenizerSettings):
    """A hierarchy of two vector-quantized autoencoders; the networks' settings are the bottom's."""

    dataset: str = "photographs"
    dimensions: int = 64
    codebook_decay: Annotated[float, Between(0, 1, "[)")] = 0.99
    """Decay of the moving averages that the codes follow."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    side = images.size // reduction(settings.widths, settings.patch_size)
    top, bottom = (
        VectorQuantizer(
            settings.codes,
            settings.dimensions,
            commitment_weight=settings.commitment,
            decay=settings.codebook_decay,
            dead_below=dead_below(settings, vectors, settings.codes),
            commit="manual",
        )
        for vectors in ((side // 2) ** 2, side**2)
    )
    tokenizer = VQVAE2(
        size=images.size,
        channels=images.channels,
        top=top,
        bottom=bottom,
        widths=settings.widths,
        patch_size=settings.patch_size,
        blocks=settings.blocks,
        attention=settings.attention,
    )
    return tokenizer_system(tokenizer, settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

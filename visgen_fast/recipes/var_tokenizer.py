"""VAR's tokenizer: images as grids of codes at rising resolutions, from a single code on; Fashion-MNIST on two cores.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction", 2024, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..nn.next_scale_quantizer import PATCH_NUMBERS, MultiscaleQuantizer
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import MultiscaleTokenizer
from ..training.bounds import AtLeast, Between
from ._images import training_images
from ._tokenizer import CodebookSettings, TokenizerSettings, dead_below, held_out_images, networks, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(CodebookSettings, TokenizerSettings):
    """A tokenizer for next-scale prediction."""

    patch_numbers: tuple[int, ...] = ()
    """Patches along a side at each scale; by default VAR's numbers below the feature map's own, and then that."""
    phis: Annotated[int, AtLeast(0)] = 4
    """Convolutions of the enlarged codes, shared by neighbouring scales; at most one for each scale."""
    metric: Literal["l2", "cosine"] = "l2"
    """What makes a code the nearest: the distance, or the angle."""
    learning: Literal["gradient", "ema"] = "gradient"
    """Codes follow the gradient of their distance to the features, or a moving average of what they stand for."""
    quantizer_dropout: Annotated[float, Between(0, 1)] = 0.0
    """Share of the images that training encodes with a random number of scales only."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    encoder, decoder = networks(settings, images, settings.dimensions)
    side = images.size // encoder.reduction
    scales = settings.patch_numbers or (*(number for number in PATCH_NUMBERS if number < side), side)
    if scales[-1] != side:
        raise ValueError(f"patch_numbers must end with {side}, the feature map's own, got {scales}")
    quantizer = MultiscaleQuantizer(
        settings.codes,
        settings.dimensions,
        scales,
        metric=settings.metric,
        commitment_weight=settings.commitment,
        phi_count=min(settings.phis, len(scales)),
        learning=settings.learning,
        dead_below=dead_below(settings, sum(number**2 for number in scales), settings.codes),
        commit="manual",
        dropout=settings.quantizer_dropout,
    )
    return tokenizer_system(MultiscaleTokenizer(encoder, quantizer, decoder), settings, images)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

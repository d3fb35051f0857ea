"""FSQ: pictures as a grid of codes that are rounded numbers, without a codebook; Fashion-MNIST on two CPU cores.

Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..nn.fsq import FSQ
from ..tokenizers import GridTokenizer
from ..training.data.pictures import PictureFormat
from ..training.tokenizer_system import TokenizerSystem
from ._pictures import held_out, pictures
from ._tokenizer import TokenizerSettings, networks, tokenizer_system

__all__ = ["Settings", "held_out", "pictures", "system"]


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """A tokenizer by finite scalar quantization."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels that each dimension of a latent is rounded to; their product is the number of codes."""
    bound: Literal["atanh", "tan", "symmetric"] = "atanh"
    """How a dimension is bounded before it is rounded, see visgen_fast.ops.finite_scalar_quantize."""


def system(settings: Settings, pictures: PictureFormat) -> TokenizerSystem:
    """The system these settings describe, for pictures of this format."""
    encoder, decoder = networks(settings, pictures, len(settings.levels))
    quantizer = FSQ(settings.levels, bound=settings.bound)
    return tokenizer_system(GridTokenizer(encoder, quantizer, decoder), settings, pictures)

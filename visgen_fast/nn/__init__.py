"""Modules over the operations: quantizers."""

from .beam import beam_search
from .codebook import Codebook
from .dropout import draw_active_depths
from .quantized import Quantized
from .quantizer import Quantizer
from .residual_quantizer import ResidualQuantizer, VectorQuantizer

__all__ = [
    "Codebook",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "VectorQuantizer",
    "beam_search",
    "draw_active_depths",
]

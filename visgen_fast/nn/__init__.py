"""Modules over the operations: quantizers."""

from .beam import beam_search
from .codebook import Codebook
from .dropout import draw_active_depths
from .multiscale_quantizer import MultiscaleQuantizer
from .quantized import Quantized
from .quantizer import Quantizer
from .quantizer_sequence import QuantizerSequence
from .residual_quantizer import ResidualQuantizer, VectorQuantizer

__all__ = [
    "Codebook",
    "MultiscaleQuantizer",
    "Quantized",
    "Quantizer",
    "QuantizerSequence",
    "ResidualQuantizer",
    "VectorQuantizer",
    "beam_search",
    "draw_active_depths",
]

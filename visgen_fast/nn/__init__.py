"""Modules over the operations: quantizers, modulated norms, conditions that networks are told, adversaries' losses."""

from .adversarial import discriminator_loss, generator_loss, gradient_penalty
from .beam import beam_search
from .bsq import BSQ
from .codebook import Codebook
from .conditions import Condition
from .dropout import draw_active_depths
from .fsq import FSQ
from .lookup_free import LookupFree
from .modulated import AdaptiveInstanceNorm, FeedForward, GatedResidualNorm, ModulatedNorm, ResidualStream
from .next_scale_quantizer import MultiscaleQuantizer
from .quantized import Quantized
from .quantizer import Quantizer
from .quantizer_sequence import QuantizerSequence
from .residual_quantizer import ResidualQuantizer, VectorQuantizer
from .scalar_quantizer import ScalarQuantizer

__all__ = [
    "ResidualStream",
    "ModulatedNorm",
    "GatedResidualNorm",
    "FeedForward",
    "AdaptiveInstanceNorm",
    "BSQ",
    "FSQ",
    "Codebook",
    "Condition",
    "LookupFree",
    "MultiscaleQuantizer",
    "Quantized",
    "Quantizer",
    "QuantizerSequence",
    "ResidualQuantizer",
    "ScalarQuantizer",
    "VectorQuantizer",
    "beam_search",
    "discriminator_loss",
    "draw_active_depths",
    "generator_loss",
    "gradient_penalty",
]

"""Every operation, defined in plain PyTorch: names and signatures of `visgen_fast.ops`, readable next to the paper."""

from .codebook import codebook_statistics
from .diffuse import add_noise, diffuse
from .noise import Purpose, derive_seeds, gaussian, uniform
from .quantize import decode_codes, nearest_code, residual_quantize

__all__ = [
    "Purpose",
    "add_noise",
    "codebook_statistics",
    "decode_codes",
    "derive_seeds",
    "diffuse",
    "gaussian",
    "nearest_code",
    "residual_quantize",
    "uniform",
]

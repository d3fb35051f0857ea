"""The operations: each checks its arguments, then runs its kernel for the tensor's device.

They import torch alone, so that using them inside other training code costs nothing else.
"""

from .. import _library  # noqa: F401  (loads the compiled libraries before the pages below register with them)
from .codebook import codebook_statistics
from .diffuse import add_noise, diffuse
from .noise import Purpose, derive_seeds, draw_seeds, gaussian, uniform
from .quantize import decode_codes, nearest_code, residual_quantize

__all__ = [
    "Purpose",
    "add_noise",
    "codebook_statistics",
    "decode_codes",
    "derive_seeds",
    "diffuse",
    "draw_seeds",
    "gaussian",
    "nearest_code",
    "residual_quantize",
    "uniform",
]

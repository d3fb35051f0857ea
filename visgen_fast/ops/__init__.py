"""The operations: each checks its arguments, then runs its kernel for the tensor's device.

They import torch alone, so that using them inside other training code costs nothing else.
"""

from .. import _library  # noqa: F401  (loads the compiled libraries before the pages below register with them)
from .codebook import codebook_statistics
from .diffuse import add_noise, diffuse
from .noise import Purpose, derive_seeds, draw_seeds, gaussian, uniform
from .quantize import decode_codes, nearest_code, residual_quantize
from .scalar_quantize import (
    binary_decode,
    binary_spherical_quantize,
    finite_scalar_decode,
    finite_scalar_quantize,
    lookup_free_quantize,
)
from .solve import denoised_quantile, output_products, solver_step

__all__ = [
    "Purpose",
    "add_noise",
    "binary_decode",
    "binary_spherical_quantize",
    "codebook_statistics",
    "decode_codes",
    "denoised_quantile",
    "derive_seeds",
    "diffuse",
    "draw_seeds",
    "finite_scalar_decode",
    "finite_scalar_quantize",
    "gaussian",
    "lookup_free_quantize",
    "nearest_code",
    "output_products",
    "residual_quantize",
    "solver_step",
    "uniform",
]

"""Every operation, defined in plain PyTorch: names and signatures of `visgen_fast.ops`, readable next to the paper."""

from .binary_quantize import binary_decode, binary_spherical_quantize, lookup_free_quantize
from .codebook import codebook_statistics
from .diffuse import add_noise, diffuse
from .finite_scalar import finite_scalar_decode, finite_scalar_quantize
from .multiscale import denoising_loss, multiscale_loss
from .noise import Purpose, derive_seeds, gaussian, uniform
from .quantize import decode_codes, nearest_code, residual_quantize
from .solve import denoised_quantile, output_products, solver_step

__all__ = [
    "Purpose",
    "add_noise",
    "binary_decode",
    "binary_spherical_quantize",
    "codebook_statistics",
    "decode_codes",
    "denoised_quantile",
    "denoising_loss",
    "derive_seeds",
    "diffuse",
    "finite_scalar_decode",
    "finite_scalar_quantize",
    "gaussian",
    "lookup_free_quantize",
    "multiscale_loss",
    "nearest_code",
    "output_products",
    "residual_quantize",
    "solver_step",
    "uniform",
]

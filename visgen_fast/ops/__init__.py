"""The operations: each checks its arguments, then runs its kernel for the tensor's device.

An argument that does not fit is a TypeError or a ValueError of one sentence that names it. Arithmetic is float32
inside, float64 for float64, under autocast too. Second derivatives are right; `torch.func.vmap`, forward-mode tangents
and devices without kernels run the definition, `visgen_fast.reference`. Importing this costs no package but torch.
"""

from .. import _library  # noqa: F401  (loads the compiled libraries before the pages below register with them)
from ..reference import Purpose
from .binary_quantize import binary_decode, binary_spherical_quantize, lookup_free_quantize
from .codebook import codebook_statistics
from .diffuse import add_noise, diffuse
from .finite_scalar import finite_scalar_decode, finite_scalar_quantize
from .multiscale import denoising_loss, multiscale_loss
from .noise import derive_seeds, draw_seeds, gaussian, uniform
from .quantize import decode_codes, nearest_code, residual_quantize
from .solve import denoised_quantile, output_products, solver_step, solver_step_

__all__ = [
    "Purpose", "add_noise", "binary_decode", "binary_spherical_quantize", "codebook_statistics", "decode_codes",
    "denoised_quantile", "denoising_loss", "derive_seeds", "diffuse", "draw_seeds", "finite_scalar_decode", "finite_scalar_quantize",
    "gaussian", "lookup_free_quantize", "multiscale_loss", "nearest_code", "output_products", "residual_quantize", "solver_step",
    "solver_step_", "uniform",
]  # fmt: skip

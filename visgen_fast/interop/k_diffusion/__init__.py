"""k-diffusion's samplers with our step: the same signatures, callbacks, random draws and results.

`apply_visgen_to_k_diffusion()` puts them into the package's module `k_diffusion.sampling`.
"""

from .apply import NAMES, apply_visgen_to_k_diffusion

__all__ = ["NAMES", "apply_visgen_to_k_diffusion"]

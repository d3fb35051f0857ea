"""Our operations in codebases that people already have, one file for each.

`apply_visgen_to_<codebase>(model=None)` makes its quantizers, schedulers or losses use our operations; `revert()` of
what it returns undoes that. `to_<codebase>` and `from_<codebase>` turn our modules' states into its state dicts and
back. Nothing here imports an outside package until it is asked for.
"""

from ._replacement import Replacement
from .diffusers import (
    apply_visgen_to_diffusers,
    apply_visgen_to_diffusers_training,
    apply_visgen_to_diffusers_transformer,
)
from .dit import apply_visgen_to_dit
from .k_diffusion import apply_visgen_to_k_diffusion
from .rqvae import apply_visgen_to_rqvae, from_rqvae, to_rqvae
from .sit import apply_visgen_to_sit
from .var import apply_visgen_to_var, from_var, to_var
from .vector_quantize_pytorch import (
    apply_visgen_to_vector_quantize_pytorch,
    from_vector_quantize_pytorch,
    to_vector_quantize_pytorch,
)

__all__ = [
    "Replacement",
    "apply_visgen_to_diffusers",
    "apply_visgen_to_diffusers_training",
    "apply_visgen_to_diffusers_transformer",
    "apply_visgen_to_dit",
    "apply_visgen_to_k_diffusion",
    "apply_visgen_to_rqvae",
    "apply_visgen_to_sit",
    "apply_visgen_to_var",
    "apply_visgen_to_vector_quantize_pytorch",
    "from_rqvae",
    "from_var",
    "from_vector_quantize_pytorch",
    "to_rqvae",
    "to_var",
    "to_vector_quantize_pytorch",
]

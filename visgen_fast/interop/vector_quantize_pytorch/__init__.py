"""vector-quantize-pytorch with our operations: the same returns, gradients and state, without distance matrices."""

from .apply import apply_visgen_to_vector_quantize_pytorch
from .state import from_vector_quantize_pytorch, to_vector_quantize_pytorch

__all__ = [
    "apply_visgen_to_vector_quantize_pytorch",
    "from_vector_quantize_pytorch",
    "to_vector_quantize_pytorch",
]

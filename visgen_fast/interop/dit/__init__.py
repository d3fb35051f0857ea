"""DiT (facebookresearch/DiT) with our operations."""

from .apply import apply_visgen_to_dit

__all__ = ["apply_visgen_to_dit"]

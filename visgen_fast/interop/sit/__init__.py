"""SiT (willisma/SiT) with our operations."""

from .apply import apply_visgen_to_sit

__all__ = ["apply_visgen_to_sit"]

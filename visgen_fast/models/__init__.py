"""Networks, one file each."""

from .dit import DiT
from .uvit import UViT

__all__ = ["DiT", "UViT"]

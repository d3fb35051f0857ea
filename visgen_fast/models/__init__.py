"""Networks, one file each."""

from .dit import DiT

__all__ = ["DiT"]

"""Networks, one file each."""

from .dit import DiT
from .unet import UNet

__all__ = ["DiT", "UNet"]

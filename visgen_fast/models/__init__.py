"""Networks, one file each."""

from .dit import DiT
from .unet import UNet
from .uvit import UViT

__all__ = ["DiT", "UNet", "UViT"]

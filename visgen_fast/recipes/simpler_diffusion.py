"""Simpler diffusion (SiD2): simple diffusion with a sigmoid weight and a U-ViT without block-wise skips.

Hoogeboom et al., "Simpler diffusion (SiD2): 1.5 FID on ImageNet512 with pixel-space diffusion", 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.weights import Sigmoid
from ..systems.prior import PriorSystem
from ..training.bounds import Between
from ._images import all_images
from ._uvit import UVIT_PRESETS, UViTSettings, resolution, uvit_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(UViTSettings):
    """Class-conditional simpler diffusion."""

    bias: Annotated[float | None, Between(-20, 20)] = None
    """The λ up to which noise levels count; by default 0 at a side of 64, and 1 less for each doubling of it."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    bias = -math.log2(resolution(images) / 64) if settings.bias is None else settings.bias
    return uvit_system(settings, images, "residual", weight=Sigmoid(bias))


RECIPE = Recipe(Settings, all_images, system, presets=UVIT_PRESETS)

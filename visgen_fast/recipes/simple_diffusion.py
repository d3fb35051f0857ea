"""Simple diffusion: large images in pixels, by a U-ViT on a cosine schedule that is shifted to their resolution.

Hoogeboom, Heek and Salimans, "Simple diffusion: end-to-end diffusion for high resolution images", 2023. The network
predicts v, and the error of ε counts, at several scales if asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast
from ._images import all_images
from ._uvit import UVIT_PRESETS, UViTSettings, uvit_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(UViTSettings):
    """Class-conditional simple diffusion."""

    scales: Annotated[tuple[int, ...], AtLeast(1)] = (1,)
    """Sides of the squares of pixels whose mean errors count; 1 2 4 8 is for images of 512 pixels a side and more."""
    scale_weights: Literal["mean", "paper"] = "mean"
    """How scales count: all alike, or side s as s over the side of the image."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    scales = {"scales": settings.scales, "scale_weights": settings.scale_weights}
    return uvit_system(settings, images, "blocks", loss="epsilon", **scales)


RECIPE = Recipe(Settings, all_images, system, presets=UVIT_PRESETS)

"""What the recipes of diffusion models share: how images are drawn, and the transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..models.dit import DiT
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._images import ImageSettings


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(ImageSettings):
    """A class-conditional diffusion model."""

    label_drop: Annotated[float, Between(0, 1)] = 0.1
    """Share of the images trained on without their label, which guidance needs."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 50
    """Steps of the solver from noise to image."""
    guidance: Annotated[float, Between(-1000, 1000)] = 2.0
    """Weight of classifier-free guidance when images are drawn; 1 is none."""


@dataclass(frozen=True, kw_only=True)
class DiTSettings(DiffusionSettings):
    """A diffusion transformer (Peebles and Xie, "Scalable diffusion models with transformers", 2023)."""

    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the square of pixels that becomes one token."""
    width: Annotated[int, AtLeast(4)] = 128
    """Features of a token."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Share of a block's features that training sets to zero."""


def dit(settings: DiTSettings, images: ImageFormat) -> DiT:
    """The transformer for images of this format; ValueError where the two don't fit."""
    return DiT(
        image_size=(images.height, images.width),
        channels=images.channels,
        patch_size=settings.patch_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        classes=len(images.class_names),
        dropout=settings.dropout,
    )

"""What the recipes of diffusion models with a U-Net share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ..data.images import ImageFormat
from ..models.unet import UNet, level_heights
from ..training.bounds import AtLeast, Between
from ._diffusion import DAYS, HOURS, MINUTES, SMALL_IMAGES, DiffusionSettings

UNET_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {**MINUTES, "width": 32, "multipliers": (1, 2), "depth": 1},
    **dict.fromkeys(SMALL_IMAGES, HOURS),
    "folder": {**DAYS, "width": 128, "multipliers": (1, 2, 3, 4), "depth": 3},
}


@dataclass(frozen=True, kw_only=True)
class UNetSettings(DiffusionSettings):
    """A U-Net (Ho et al., "Denoising diffusion probabilistic models", 2020; Dhariwal and Nichol, "ADM", 2021)."""

    width: Annotated[int, AtLeast(1)] = 64
    """Features of the finest level."""
    multipliers: Annotated[tuple[int, ...], AtLeast(1)] = (1, 2, 2)
    """Features of each level over those of the finest; each has half the resolution of the one before."""
    depth: Annotated[int, AtLeast(1)] = 2
    """Residual blocks of a level on the way down; on the way up it has one more."""
    attention: Annotated[int, AtLeast(0)] = 16
    """Levels up to this height end their blocks in attention."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Share of a block's features that training sets to zero."""


def unet(settings: UNetSettings, images: ImageFormat, **options: Any) -> UNet:
    """The U-Net for images of this format, with `options` of its own; ValueError where the two don't fit."""
    size = images.height, images.width
    heights = level_heights(size, settings.multipliers)
    return UNet(
        image_size=size,
        channels=images.channels,
        width=settings.width,
        multipliers=settings.multipliers,
        depth=settings.depth,
        attention_resolutions=[height for height in heights if height <= settings.attention],
        heads=settings.heads,
        classes=len(images.class_names),
        dropout=settings.dropout,
        **options,
    )

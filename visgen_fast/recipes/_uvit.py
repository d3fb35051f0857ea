"""What the recipes of pixels at growing resolution share: the network, and the schedule that follows the resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..diffusion.derived_schedules import Shifted
from ..diffusion.objective import DiffusionObjective
from ..diffusion.schedules import CosineVP
from ..diffusion.times import UniformTimes
from ..models.uvit import UViT
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_IMAGE_SIDE, MOST_SAMPLING_STEPS
from ._diffusion import DAYS, HOURS, MINUTES, DiffusionSettings, of_pixels

UVIT_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {**MINUTES, "reference": 8, "patch_size": 1, "stages": (32,), "width": 96, "depth": 2},
    "fashion-mnist": {**MINUTES, "steps": 1500, "batch_size": 32, "sample_every": 500, "size": 64},
    **dict.fromkeys(
        ("photographs", "emoji"), {**HOURS, "size": 64, "reference": 32, "stages": (64, 128), "width": 256, "depth": 6}
    ),
    "folder": {**DAYS, "size": 128, "reference": 32, "stages": (64, 128), "width": 384, "depth": 8, "heads": 6},
}


@dataclass(frozen=True, kw_only=True)
class UViTSettings(DiffusionSettings):
    """A U-ViT (Hoogeboom et al., "Simple diffusion: end-to-end diffusion for high resolution images", 2023)."""

    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 25
    """Steps of DPM-Solver++ of second order from noise to image."""
    reference: Annotated[float, Between(1, MOST_IMAGE_SIDE)] = 16.0
    """Side of the images for which the cosine schedule is not shifted; larger images get more noise."""
    first: Literal["patches", "wavelet"] = "patches"
    """How squares of pixels become positions: as they are, or as the bands of a 5/3 wavelet."""
    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the square of pixels that becomes one position; a power of 2 for a wavelet."""
    stages: Annotated[tuple[int, ...], AtLeast(1)] = (32, 64)
    """Features of the convolutional stages, each of half the resolution of the one before."""
    blocks: Annotated[int, AtLeast(1)] = 1
    """Residual blocks of a stage on the way down, and again on the way up."""
    width: Annotated[int, AtLeast(4)] = 128
    """Features of a token of the transformer, at half the resolution of the last stage."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.1
    """Share of a transformer block's features that training sets to zero; the stages have none."""


def uvit_system(
    settings: UViTSettings, images: ImageFormat, skips: Literal["blocks", "residual"], **options: Any
) -> PriorSystem:
    """A U-ViT that predicts v and is told λ, on the cosine schedule shifted to the images' resolution.

    options: of the objective. ValueError where settings and images don't fit.
    """
    model = UViT(
        image_size=(images.height, images.width),
        channels=images.channels,
        stages=settings.stages,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        classes=len(images.class_names),
        patch_size=settings.patch_size,
        first=settings.first,
        blocks=settings.blocks,
        skips=skips,
        dropout=settings.dropout,
        conditioning="log_snr",
    )
    objective = DiffusionObjective(
        Shifted(CosineVP(), settings.reference, resolution(images)),
        "v",
        UniformTimes(),
        conditioning="log_snr",
        **options,
    )
    return PriorSystem(*of_pixels(settings, images, model, objective, "dpm++2m"))


def resolution(images: ImageFormat) -> float:
    """The side of a square of as many pixels."""
    return math.sqrt(images.height * images.width)

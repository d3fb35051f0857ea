"""Text to image: a diffusion transformer under captions, by a vector, by cross attention, or in two streams.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022; Chen et al., "PixArt-α", 2023;
Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.prior import DiffusionPrior
from ..diffusion.schedules import RectifiedFlow
from ..models.dit import DiT
from ..models.mmdit import MMDiT
from ..nn.text_condition import TextCondition
from ..systems.prior import PriorSystem
from ._diffusion import DIT_PRESETS, DiTSettings, drawing
from ._images import held_out_images, training_images
from ._latents import ShiftedSettings, latents_or_pixels, shifted_times
from ._text import TextSettings, captions_of
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TextSettings, ShiftedSettings, DiTSettings):
    """Rectified flow under captions."""

    dataset: str = "emoji"
    attention: Literal["pooled", "cross", "joint"] = "cross"
    """How captions reach the network: as one vector; as tokens too, which patches attend to; or as a second stream."""


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    stage, remembered = latents_or_pixels(settings, images)
    times, shift = shifted_times(settings, stage)
    condition = TextCondition(captions_of(settings, images), settings.label_drop)
    prior = DiffusionPrior(
        network(settings, stage.shape, condition.texts.width),
        DiffusionObjective(RectifiedFlow(), "velocity", times),
        drawing(settings, "euler", shift=shift),
    )
    made = PriorSystem(prior, condition, stage)
    made.remembered = remembered
    return made


def network(settings: Settings, shape: tuple[int, ...], features: int) -> DiT:
    """The transformer for images or latents of this shape, and texts of so many features."""
    channels, height, width = shape
    sizes: dict[str, Any] = {
        "image_size": (height, width),
        "channels": channels,
        "patch_size": settings.patch_size,
        "width": settings.width,
        "depth": settings.depth,
        "heads": settings.heads,
        "pooled": features,
        "dropout": settings.dropout,
        "bottleneck": settings.bottleneck,
        "recompute": settings.recompute,
        "mlp": "swiglu",
        "rotary": True,
        "normalized": True,
    }
    if settings.attention == "joint":
        return MMDiT(tokens=features, **sizes)
    return DiT(tokens=features if settings.attention == "cross" else None, **sizes)


RECIPE = Recipe(Settings, training_images, system, held_out_images, DIT_PRESETS)

"""Flow with optimal transport: straight paths from noise, or from other images, to images paired with them.

Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal transport", 2024;
Pooladian et al., "Multisample flow matching", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..diffusion.guiding import check_interval
from ..systems.bridge import BridgeSystem
from ..training.bounds import Between
from ._bridges import PathSettings, ends, following, held_out_start, start_images
from ._diffusion import DIT_PRESETS, dit
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(PathSettings):
    """A class-conditional flow between coupled ends."""

    coupling: Literal["optimal", "independent"] = "optimal"
    """How a micro-batch's images and endpoints are paired: with the least squared distance within each class, or as
    they come."""
    regularization: Annotated[float, Between(0, 1000)] = 0.0
    """Of the optimal coupling's entropy: above 0 pairs are drawn, the more at random the larger it is."""


def system(settings: Settings, images: ImageFormat) -> BridgeSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    check_interval(settings.guidance_interval)
    model = dit(settings, images)
    start, end = ends(settings, images)
    return BridgeSystem(
        *(model, images.shape, start, end, following(settings), 0.0, len(images.class_names)),
        coupled=settings.coupling == "optimal",
        regularization=settings.regularization,
        spread=settings.sigma,
        label_drop=settings.label_drop,
    )


RECIPE = Recipe(Settings, start_images, system, held_out_start, DIT_PRESETS)

"""TarFlow: a normalizing flow of autoregressive transformers over patches; reports bits per dimension.

Zhai et al., "Normalizing flows are capable generative models", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..flows.tar_flow import TarFlow
from ..systems.flow import FlowSystem
from ..training.bounds import AtLeast, Between
from ._flows import FLOW_PRESETS, FlowSettings, flow_system
from ._images import held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(FlowSettings):
    """TarFlow, given the class."""

    noise: Annotated[float, Between(0, 1)] = 0.05
    label_drop: Annotated[float, Between(0, 1)] = 0.1
    guidance: Annotated[float, Between(-1000, 1000)] = 1.0
    """Weight of the label over none when images are drawn, reached at the last patch; 1 is none."""
    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the square of pixels that is drawn at once."""
    blocks: Annotated[int, AtLeast(1)] = 4
    """Transformers, which begin in turns at the first patch and at the last."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a transformer's block."""


def system(settings: Settings, images: ImageFormat) -> FlowSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    sizes = {name: getattr(settings, name) for name in ("patch_size", "blocks", "heads")}
    return flow_system(settings, images, TarFlow, guidance=settings.guidance, **sizes)


PRESETS = {**FLOW_PRESETS, "digits": {**FLOW_PRESETS["digits"], "depth": 1, "blocks": 8, "learning_rate": 3e-3}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

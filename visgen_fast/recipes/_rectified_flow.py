"""What the recipes of class-conditional rectified flow share: a DiT that predicts the velocity, and its settings.

Rectified flow: Liu, Gong and Liu, "Flow straight and fast" (2023). DiT: Peebles and Xie, "Scalable diffusion models
with transformers" (2023). Times near the middle: Esser et al., "Scaling rectified flow transformers" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..models.dit import DiT
from ..systems.diffusion import DiffusionSystem, SamplerSettings
from ..training.bounds import AtLeast, Between
from ..training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RectifiedFlowSettings(TrainingSettings):
    """A diffusion transformer trained as a rectified flow."""

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
    label_drop: Annotated[float, Between(0, 1)] = 0.1
    """Share of the images trained on without their label, which guidance needs."""
    sampling_steps: Annotated[int, AtLeast(1)] = 50
    """Euler steps from noise to image."""
    guidance: float = 2.0
    """Weight of classifier-free guidance when images are drawn; 1 is none."""


def rectified_flow_system(settings: RectifiedFlowSettings, images: ImageFormat) -> DiffusionSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    model = DiT(
        image_size=images.size,
        channels=images.channels,
        patch_size=settings.patch_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        classes=len(images.class_names),
        dropout=settings.dropout,
    )
    objective = DiffusionObjective(
        schedule=RectifiedFlow(),
        prediction="velocity",
        times=LogitNormalTimes(mean=0.0, std=1.0),
        label_drop=settings.label_drop,
        null_label=model.null_label,
    )
    return DiffusionSystem(model, objective, images.shape, SamplerSettings(settings.sampling_steps, settings.guidance))

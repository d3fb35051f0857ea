"""Rectified flow: images of classes, by a transformer that predicts the velocity from image to noise.

Liu, Gong and Liu, "Flow straight and fast", 2023. Times near the middle: Esser et al., "Scaling rectified flow
transformers", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.images import ImageFormat
from ..diffusion.objective import DiffusionObjective
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..systems.diffusion import DiffusionSystem, SamplerSettings
from ._diffusion import DiTSettings, dit
from ._images import all_images
from .recipe import Recipe

_MINUTES: dict[str, Any] = {
    **{"steps": 1000, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 50, "lr_schedule": "cosine"},
    **{"ema_decay": 0.99, "sample_every": 250, "checkpoint_every": 250},
}
_HOURS: dict[str, Any] = {"steps": 20_000, "width": 256, "depth": 6, "learning_rate": 5e-4, "ema_decay": 0.9995}
_DAYS: dict[str, Any] = {
    **{"steps": 100_000, "width": 384, "depth": 8, "heads": 6, "patch_size": 4, "learning_rate": 3e-4},
    **{"ema_decay": 0.9998, "sample_every": 2000, "checkpoint_every": 2000, "horizontal_flip": True, "workers": 2},
}


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional rectified flow."""

    dataset: str = "digits"


def system(settings: Settings, images: ImageFormat) -> DiffusionSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    model = dit(settings, images)
    objective = DiffusionObjective(
        schedule=RectifiedFlow(),
        prediction="velocity",
        times=LogitNormalTimes(mean=0.0, std=1.0),
        label_drop=settings.label_drop,
        null_label=model.null_label,
    )
    return DiffusionSystem(model, objective, images.shape, SamplerSettings(settings.sampling_steps, settings.guidance))


RECIPE = Recipe(
    Settings,
    all_images,
    system,
    presets={"digits": _MINUTES, "fashion-mnist": _HOURS, "photographs": _HOURS, "emoji": _HOURS, "folder": _DAYS},
)

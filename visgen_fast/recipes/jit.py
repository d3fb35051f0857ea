"""JiT: a plain transformer on large patches that draws pixels, because it predicts the image and not the noise.

Li and He, "Back to basics: let denoising generative models denoise", 2025. Images lie on a thin set among all pixels,
noise does not: a network with fewer features than a patch has pixels can tell the one and not the other. Its error
counts as one of the velocity. More noise at a higher resolution: Hoogeboom, Heek and Salimans, "Simple diffusion",
2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..diffusion.derived_schedules import Shifted
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._diffusion import DAYS, HOURS, MINUTES, DiTSettings, dit_system
from ._images import all_images
from .recipe import Recipe

_OF_PHOTOGRAPHS: dict[str, Any] = {"batch_size": 128, "bottleneck": 64, "noise_scale": 1.0}
_HOURS: dict[str, Any] = {**HOURS, **_OF_PHOTOGRAPHS, "width": 256, "heads": 8}
_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        **{**MINUTES, "size": 8, "patch_size": 4, "noise_scale": 1.0},
        **{"width": 128, "depth": 4, "heads": 4, "bottleneck": 8},
    },
    **dict.fromkeys(("photographs", "emoji"), _HOURS),
    "folder": {**DAYS, **_OF_PHOTOGRAPHS, "width": 384, "depth": 8},
}


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional flow of pixels on large patches: ten minutes of Fashion-MNIST on two CPU cores."""

    size: int | None = 64
    patch_size: int = 16
    bottleneck: int | None = 32
    width: int = 192
    depth: int = 6
    heads: int = 6
    steps: int = 2500
    batch_size: int = 32
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.99
    noise_scale: Annotated[float, Between(1e-2, 100)] = 2.0
    """Standard deviation of the noise: in the paper 1 at 256×256 pixels, 2 at 512×512; enlarged images want more."""
    mean: Annotated[float, Between(-5, 5)] = 0.8
    """Mean of logit t in training; above 0, more noise than image."""
    std: Annotated[float, Between(1e-2, 10)] = 0.8
    """Standard deviation of logit t in training."""
    smallest_time: Annotated[float, Between(0, 1, "[)")] = 0.05
    """Times below it count as it: the velocity's weight 1/t² goes no higher."""
    prediction: Literal["x", "v", "velocity"] = "x"
    """What the network predicts; the paper compares."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 25
    """Steps of Heun's method from noise to image, of two network calls each."""
    guidance_interval: tuple[float, float] | None = (0.0, 0.9)


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    return dit_system(
        settings,
        images,
        Shifted(RectifiedFlow(), 1.0, settings.noise_scale),
        settings.prediction,
        LogitNormalTimes(settings.mean, settings.std),
        sampler="heun",
        loss="velocity",
        smallest_time=settings.smallest_time,
    )


RECIPE = Recipe(Settings, all_images, system, presets=_PRESETS)

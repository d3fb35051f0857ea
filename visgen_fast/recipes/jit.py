"""JiT: a plain transformer on large patches that draws pixels, because it predicts the image and not the noise.

Li and He, "Back to basics: let denoising generative models denoise", 2025. Images lie on a thin set among all pixels,
noise does not: a network with fewer features than a patch has pixels can tell the one and not the other. Its error
counts as one of the velocity. More noise at a higher resolution: Hoogeboom, Heek and Salimans, "Simple diffusion",
2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..diffusion.derived_schedules import Shifted
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import LogitNormalTimes
from ..systems.diffusion import DiffusionSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._diffusion import DIT_PRESETS, DiTSettings, dit_system
from ._images import all_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(DiTSettings):
    """Class-conditional flow of pixels on large patches."""

    size: int | None = 64
    patch_size: int = 16
    bottleneck: int | None = 32
    noise_scale: Annotated[float, Between(1e-2, 100)] = 1.0
    """Standard deviation of the noise; the paper has 1 at 256×256 pixels and 2 at 512×512."""
    mean: Annotated[float, Between(-5, 5)] = 0.8
    """Mean of logit t in training; above 0, more noise than image."""
    std: Annotated[float, Between(1e-2, 10)] = 0.8
    """Standard deviation of logit t in training."""
    smallest_time: Annotated[float, Between(0, 1, "[)")] = 0.05
    """Times below it count as it: the velocity's weight 1/t² goes no higher."""
    prediction: Literal["x", "v", "velocity", "epsilon"] = "x"
    """What the network predicts; the paper's comparison."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 25
    """Steps of Heun's method from noise to image, of two network calls each."""
    guidance_interval: tuple[float, float] | None = (0.0, 0.9)


def system(settings: Settings, images: ImageFormat) -> DiffusionSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    schedule = Shifted(RectifiedFlow(), 1.0, settings.noise_scale)
    return dit_system(
        settings,
        images,
        schedule,
        settings.prediction,
        LogitNormalTimes(settings.mean, settings.std),
        sampler="heun",
        loss="velocity",
        smallest_time=settings.smallest_time,
    )


RECIPE = Recipe(Settings, all_images, system, presets=DIT_PRESETS)

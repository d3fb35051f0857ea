"""Upsampler: large images from small ones, by diffusion that is given the small image with noise on it.

Ho et al., "Cascaded diffusion models for high fidelity image generation", 2022. Behind any model that draws the small
images it makes a cascade: `visgen-fast sample RUN --then UPSAMPLER`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..diffusion.prior import DiffusionPrior
from ..systems.upsampler import UpsamplerSystem
from ..training.bounds import Between
from ._diffusion import classes_of, drawing
from ._images import held_out_images, training_images
from ._uvit import UVIT_PRESETS, UViTSettings, network, shifted_objective
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(UViTSettings):
    """Class-conditional upsampling, as simple diffusion with a small image beside."""

    network: Literal["uvit", "hdit"] = "uvit"
    """uvit: convolutions at high resolutions; hdit: attention within windows there (Crowson et al., 2024)."""
    factor: Annotated[int, Between(2, 64)] = 2
    """Side of the images over that of the small ones."""
    noise: Annotated[float, Between(0, 10)] = 0.25
    """Largest deviation of the noise on small images in training, of pixels from -1 to 1; 0 for none."""
    drawing_noise: Annotated[float | None, Between(0, 10)] = None
    """That on the small images that are drawn from; by default 0.1, but at most that of training."""
    guidance: Annotated[float, Between(-1000, 1000)] = 1.0
    """Weight of classifier-free guidance when images are drawn; 1 is none."""


def system(settings: Settings, images: ImageFormat) -> UpsamplerSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    model = network(settings, images, "blocks", given=images.channels + 1)
    objective = shifted_objective(settings, images, loss="epsilon")
    prior = DiffusionPrior(model, objective, drawing(settings, "dpm++2m"))
    drawn = min(0.1, settings.noise) if settings.drawing_noise is None else settings.drawing_noise
    options: dict[str, Any] = {"factor": settings.factor, "noise": settings.noise, "drawing_noise": drawn}
    return UpsamplerSystem(prior, classes_of(settings, images), images, **options)


RECIPE = Recipe(Settings, training_images, system, held_out_images, UVIT_PRESETS)

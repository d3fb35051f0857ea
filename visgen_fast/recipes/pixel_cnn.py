"""PixelCNN: images pixel by pixel, each from those before it, by gated convolutions.

Van den Oord et al., "Conditional image generation with PixelCNN decoders", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..models.pixel_cnn import PixelCNN
from ..systems.codes import CodeSystem
from ..training.bounds import AtLeast
from ._codes import PixelSettings, code_system, pixel_codes
from ._images import held_out_images, training_images
from .recipe import Recipe

_MINUTES: dict[str, Any] = {"levels": 17, "steps": 1000, "checkpoint_every": 500, "sample_every": 500}
_HALF_AN_HOUR: dict[str, Any] = {"steps": 5000, "sample_every": 1000}


@dataclass(frozen=True, kw_only=True)
class Settings(PixelSettings):
    """A gated PixelCNN."""

    width: Annotated[int, AtLeast(1)] = 48
    """Features of each stack, a multiple of the channels."""
    depth: Annotated[int, AtLeast(1)] = 6
    """Gated layers; each lets a pixel see one more to every side."""
    kernel: Annotated[int, AtLeast(3)] = 3
    """Columns of a convolution, an odd number."""
    dataset: str = "digits"
    steps: int = 20_000
    batch_size: int = 16
    learning_rate: float = 2e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.995
    sample_every: int = 5000


def system(settings: Settings, images: ImageFormat) -> CodeSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    pixels = pixel_codes(settings, images)
    model = PixelCNN(
        pixels.shape,
        pixels.code_size,
        width=settings.width,
        depth=settings.depth,
        kernel=settings.kernel,
        classes=len(images.class_names),
    )
    return code_system(settings, model, pixels)


RECIPE = Recipe(
    Settings, training_images, system, held_out_images, presets={"digits": _MINUTES, "fashion-mnist": _HALF_AN_HOUR}
)

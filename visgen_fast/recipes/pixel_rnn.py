"""PixelRNN: images pixel by pixel, each from those before it, by Row LSTMs.

Van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..models.pixel_rnn import PixelRNN
from ..systems.codes import CodeSystem
from ..training.bounds import AtLeast
from ._codes import PixelSettings, code_system, pixel_codes
from ._images import held_out_images, training_images
from .recipe import Recipe

_DIGITS: dict[str, Any] = {"levels": 17, "steps": 1500, "checkpoint_every": 500, "sample_every": 500}


@dataclass(frozen=True, kw_only=True)
class Settings(PixelSettings):
    """A PixelRNN."""

    width: Annotated[int, AtLeast(1)] = 48
    """Features, a multiple of the channels."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Row LSTMs."""
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
    model = PixelRNN(
        pixels.shape,
        pixels.code_size,
        width=settings.width,
        depth=settings.depth,
        classes=len(images.class_names),
    )
    return code_system(settings, model, pixels)


RECIPE = Recipe(Settings, training_images, system, held_out_images, presets={"digits": _DIGITS})

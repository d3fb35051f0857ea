"""Image GPT: images code by code in any order, by a transformer; codes are pixels, bit planes or tiles.

Chen et al., "Generative pretraining from pixels", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..models.sequence_model import SequenceModel
from ..systems.codes import CodeSystem
from ..training.bounds import AtLeast, Between
from ._codes import PixelSettings, code_system, order_named, pixel_codes
from ._images import held_out_images, training_images
from .recipe import Recipe

_DIGITS: dict[str, Any] = {
    **{"levels": 17, "steps": 700, "width": 64, "depth": 3, "batch_size": 64, "learning_rate": 3e-3},
    **{"sample_every": 350, "checkpoint_every": 350, "ema_decay": 0.99},
}


@dataclass(frozen=True, kw_only=True)
class Settings(PixelSettings):
    """A transformer over the codes of images."""

    layout: Literal["channels", "planes", "tiles"] = "channels"
    """Codes are the channels of pixels, their bits, or the pixels of a tile one after the other."""
    tile: Annotated[int, AtLeast(1)] = 4
    """Side of a tile, for the layout and for the order of that name."""
    order: Literal["raster", "columns", "snake", "tiles", "planes", "shuffled"] = "raster"
    """In which the codes are drawn; planes draws the first code of every place before any second one."""
    width: Annotated[int, AtLeast(1)] = 128
    """Features of a code."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Share of a block's features that training sets to zero."""
    dataset: str = "digits"
    steps: int = 20_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    sample_every: int = 5000


def system(settings: Settings, images: ImageFormat) -> CodeSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    pixels = pixel_codes(settings, images, settings.layout, settings.tile)
    model = SequenceModel(
        order_named(settings.order, pixels.shape, settings.tile),
        pixels.code_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        classes=len(images.class_names),
        dropout=settings.dropout,
    )
    return code_system(settings, model, pixels)


RECIPE = Recipe(Settings, training_images, system, held_out_images, presets={"digits": _DIGITS})

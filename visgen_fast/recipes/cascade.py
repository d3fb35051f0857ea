"""A cascade: an image's codes one by one in any order, given those of the image at half its size, of any model.

Menick and Kalchbrenner, "Generating high fidelity images with subscale pixel networks and multidimensional upscaling",
2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from ..autoregression.order import in_turn, raster
from ..autoregression.prior import CodePrior
from ..data.images import ImageFormat
from ..models.sequence_model import SequenceModel
from ..systems.cascade import CascadeSystem
from ..tokenizers import PixelCodes
from ..training.bounds import AtLeast, Between
from ._coarse import CoarseSettings, coarse_run
from ._codes import drawing, order_named, parts, require_few
from ._first_stage import first_stage
from ._images import held_out_images, training_images
from .recipe import Recipe

KINDS = ("cascade", "maskgit", "muse", "pixel-cnn", "pixel-gpt", "pixel-rnn", "rq-transformer", "token-gpt", "var")


@dataclass(frozen=True, kw_only=True)
class Settings(CoarseSettings):
    """A transformer over the codes of a tokenizer, or over pixels, after a model of the image at half its size."""

    first_stage: str = ""
    """The run of a tokenizer of images of the same size; without it the codes are pixels."""
    levels: Annotated[int, Between(2, 256)] = 256
    """Values of a pixel, without a first stage; 32 keep the five leading bits."""
    order: Literal["raster", "columns", "snake", "tiles", "planes", "shuffled"] = "raster"
    """In which the codes are drawn; planes draws the first code of every place before any second one."""
    tile: Annotated[int, AtLeast(1)] = 4
    """Side of a tile, for the order of that name."""


def system(settings: Settings, images: ImageFormat) -> CascadeSystem:
    """The system these settings describe, for images of this format. `UserError` where the other runs don't fit."""
    tokenizer: nn.Module
    remembered: dict[str, Any] = {}
    if settings.first_stage:
        stage = first_stage(settings, images)
        tokenizer, shape, size = stage.tokenizer, stage.shape, stage.tokenizer.quantizer.size
        remembered["first_stage"] = stage.origin
    else:
        tokenizer = pixels = PixelCodes((images.height, images.width), images.channels, settings.levels)
        shape, size = pixels.shape, pixels.code_size
        require_few(shape)
    *grid, depth = shape
    coarse = coarse_run(settings, images, depth, size, KINDS)
    order = in_turn(raster(coarse.system.measured.order.shape), order_named(settings.order, shape, settings.tile))
    prior = CodePrior(SequenceModel(order, size, **settings.network(images)), drawing(settings))
    made = CascadeSystem(*parts(settings, prior, tokenizer), coarse=coarse.system, grid=grid)
    made.remembered = {**remembered, "coarse": coarse.origin}
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images, {"digits": {"levels": 17}})

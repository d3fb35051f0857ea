"""What the recipes of models of codes share: pixels as codes, their order, and how images are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from ..autoregression.model import CodeModel
from ..autoregression.order import Order, columns, plane_by_plane, raster, shuffled, snake, tile_by_tile
from ..autoregression.prior import CodePrior, CodeSampling
from ..data.images import ImageFormat
from ..nn.class_condition import Labels
from ..systems.codes import CodeSystem
from ..tokenizers.code_stage import CodeStage
from ..tokenizers.pixels import PixelCodes
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_CODES
from ._images import ImageSettings


@dataclass(frozen=True, kw_only=True)
class CodeSettings(ImageSettings):
    """A class-conditional model of codes."""

    label_drop: Annotated[float, Between(0, 1)] = 0.1
    """Share of the images trained on without their label, which guidance needs."""
    guidance: Annotated[float, Between(-1000, 1000)] = 1.0
    """Weight of classifier-free guidance when images are drawn; 1 is none."""
    temperature: Annotated[float, Between(0, 1000)] = 1.0
    """Of the draws: below 1 the probable codes come more often, at 0 the most probable one always."""
    top_k: Annotated[int | None, AtLeast(1)] = None
    """Draw from so many most probable codes only."""
    top_p: Annotated[float | None, Between(0, 1)] = None
    """Draw from the most probable codes that together have this probability."""
    guidance_ramp: bool = False
    """Let guidance grow from 1 at the first step to its weight at the last, as VAR and Muse do."""


@dataclass(frozen=True, kw_only=True)
class PixelSettings(CodeSettings):
    """A model of pixels."""

    levels: Annotated[int, Between(2, 256)] = 256
    """Values of a code; 32 keep the five leading bits of a pixel."""
    palette: Annotated[int | None, Between(2, 2**16)] = None
    """A pixel is one code, the nearest of so many colours of the training images, which k-means finds."""


def pixel_codes(
    settings: PixelSettings,
    images: ImageFormat,
    layout: Literal["channels", "planes", "tiles"] = "channels",
    tile: int = 4,
) -> PixelCodes:
    """The pixels of images of this format as codes; ValueError where there are too many, or the layout doesn't fit."""
    palette = None if settings.palette is None else torch.zeros(settings.palette, images.channels)
    codes = PixelCodes((images.height, images.width), images.channels, settings.levels, layout, tile, palette)
    require_few(codes.shape)
    return codes


def require_few(shape: tuple[int, ...]) -> None:
    """ValueError where an image has more codes than a model of codes should be asked for."""
    if math.prod(shape) > MOST_CODES:
        raise ValueError(f"images of {math.prod(shape)} codes are too large for a model of codes: give a --size")


def order_named(name: str, shape: tuple[int, ...], tile: int) -> Order:
    """The order of that name for codes of this shape; ValueError where the two don't fit."""
    if name == "tiles":
        return tile_by_tile(shape, tile)
    if name == "shuffled":
        return shuffled(shape, 0)
    return {"raster": raster, "columns": columns, "snake": snake, "planes": plane_by_plane}[name](shape)


def code_system(settings: CodeSettings, model: CodeModel, tokenizer: nn.Module) -> CodeSystem:
    """The model with the tokenizer of its codes, to draw with as the settings say."""
    return CodeSystem(*parts(settings, CodePrior(model, drawing(settings)), tokenizer))


def parts(settings: CodeSettings, prior: CodePrior, tokenizer: nn.Module) -> tuple[CodePrior, Labels, CodeStage]:
    """What a system of codes is made of: the prior, the labels that it is told, and the tokenizer below it."""
    classes = prior.model.null_label
    assert classes is not None  # images have classes
    return prior, Labels(classes, settings.label_drop), CodeStage(tokenizer, prior.model.order.shape)


def drawing(settings: CodeSettings) -> CodeSampling:
    """How the settings say that codes are drawn."""
    chosen = settings.guidance, settings.temperature, settings.top_k, settings.top_p
    return CodeSampling(*chosen, settings.guidance_ramp)

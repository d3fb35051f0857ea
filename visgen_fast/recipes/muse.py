"""Muse: a masked model of an image's codes, given those that another one draws of the image at half its size.

Chang et al., "Muse: text-to-image generation via masked generative transformers", 2023, section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..autoregression.order import in_turn, shuffled
from ..data.images import ImageFormat
from ..models.masked_model import MaskedModel
from ..systems.cascade import CascadeSystem
from ._coarse import CoarseSettings, coarse_run
from ._codes import parts
from ._first_stage import first_stage
from ._images import held_out_images, training_images
from ._masked import MaskedSettings, masked_prior
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(MaskedSettings, CoarseSettings):
    """A masked transformer over the codes of a tokenizer, after a masked model of the image at half its size."""


def system(settings: Settings, images: ImageFormat) -> CascadeSystem:
    """The system these settings describe, for images of this format. `UserError` where the other runs don't fit."""
    stage = first_stage(settings, images)
    *grid, depth = stage.shape
    size = stage.tokenizer.quantizer.size
    coarse = coarse_run(settings, images, depth, size, kinds=("maskgit",))
    order = in_turn(coarse.system.measured.order, shuffled(stage.shape, 0))
    prior = masked_prior(settings, MaskedModel(order, size, **settings.network(images)))
    made = CascadeSystem(*parts(settings, prior, stage.tokenizer), coarse=coarse.system, grid=grid)
    made.remembered = {"first_stage": stage.origin, "coarse": coarse.origin}
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)

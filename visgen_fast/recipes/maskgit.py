"""MaskGIT: codes in a dozen steps, in each those that the model is surest of.

Chang et al., "MaskGIT: masked generative image transformer", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..autoregression.order import shuffled
from ..data.images import ImageFormat
from ..models.masked_model import MaskedModel
from ..systems.codes import CodeSystem
from ._codes import parts
from ._first_stage import first_stage
from ._images import held_out_images, training_images
from ._masked import MaskedSettings, masked_prior
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(MaskedSettings):
    """A masked transformer over the codes of a tokenizer."""


def system(settings: Settings, images: ImageFormat) -> CodeSystem:
    """The system these settings describe, for images of this format. `UserError` where the first stage doesn't fit."""
    stage = first_stage(settings, images)
    order = shuffled(stage.shape, 0)  # in which the bits are measured
    model = MaskedModel(order, stage.tokenizer.quantizer.size, **settings.network(images))
    made = CodeSystem(*parts(settings, masked_prior(settings, model), stage.tokenizer))
    made.remembered = {"first_stage": stage.origin}
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)

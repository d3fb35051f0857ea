"""VAR: codes scale by scale, all of a scale at once, from the coarsest on.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.images import ImageFormat
from ..models.scale_model import ScaleModel
from ..systems.codes import CodeSystem
from ..tokenizers import MultiscaleTokenizer
from ._codes import code_system
from ._first_stage import FirstStageSettings, first_stage
from ._images import held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(FirstStageSettings):
    """A transformer over the scales of VAR's tokenizer."""

    guidance_ramp: bool = True


def system(settings: Settings, images: ImageFormat) -> CodeSystem:
    """The system these settings describe, for images of this format. `UserError` where the first stage doesn't fit."""
    stage = first_stage(settings, images, kinds=("var-tokenizer",))
    assert isinstance(stage.tokenizer, MultiscaleTokenizer)
    model = ScaleModel(stage.tokenizer.quantizer, **settings.network(images))
    made = code_system(settings, model, stage.tokenizer)
    made.remembered = {"first_stage": stage.origin}
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)

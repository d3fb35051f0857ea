"""Codes of a tokenizer one by one, by a transformer: priors of VQ-VAE, VQ-VAE-2 and TiTok.

Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis", 2021; Razavi, van den Oord and
Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019, whose top comes before its bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..autoregression.order import raster
from ..data.images import ImageFormat
from ..models.sequence_model import SequenceModel
from ..systems.codes import CodeSystem
from ._codes import code_system
from ._first_stage import FirstStageSettings, first_stage
from ._images import held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(FirstStageSettings):
    """A transformer over the codes of a tokenizer."""


def system(settings: Settings, images: ImageFormat) -> CodeSystem:
    """The system these settings describe, for images of this format. `UserError` where the first stage doesn't fit."""
    stage = first_stage(settings, images)
    model = SequenceModel(raster(stage.shape), stage.tokenizer.quantizer.size, **settings.network(images))
    made = code_system(settings, model, stage.tokenizer)
    made.remembered = {"first_stage": stage.origin}
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)

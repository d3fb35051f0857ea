"""LADD: a few-step model deceives heads on the features of its own teacher's blocks.

Sauer et al., "Fast high-resolution image synthesis with latent adversarial diffusion distillation", 2024; with images
of the data set, where the paper has its teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.images import ImageFormat
from ..models.dit import DiT
from ..models.feature_heads import FeatureHeads
from ..systems.matching import AdversarialStudent
from ._images import all_images
from ._students import PRESETS, StudentSettings, drawing_base
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(StudentSettings):
    """A few-step model by adversarial distillation on its teacher's features."""


def system(settings: Settings, images: ImageFormat) -> AdversarialStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    arguments, origin = drawing_base(settings, images)
    student = arguments[0]
    assert isinstance(student, DiT)
    made = AdversarialStudent(
        FeatureHeads([student.width] * len(student.blocks), len(images.class_names)), None, *arguments
    )
    made.remembered = {"teacher": origin}
    return made


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

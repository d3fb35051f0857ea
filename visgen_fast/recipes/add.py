"""ADD: a few-step model deceives heads on a classifier's features, and stays near its teacher.

Sauer et al., "Adversarial diffusion distillation", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from ..data.images import ImageFormat
from ..errors import UserError
from ..models.feature_heads import FeatureHeads
from ..systems.matching import AdversarialStudent
from ..training.bounds import Between
from ._images import all_images
from ._students import PRESETS, StudentSettings, drawing_base
from .recipe import Recipe
from .runs import trained_classifier


@dataclass(frozen=True, kw_only=True)
class Settings(StudentSettings):
    """A few-step model by adversarial distillation."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("teacher", "features")

    features: str = ""
    """A run of the recipe classifier on such images, whose features are judged; checkpoints keep its weights."""
    distillation: Annotated[float, Between(0, 1000)] = 2.5
    """Weight of the distance to the teacher's image."""
    r1: Annotated[float, Between(0, 1000)] = 1e-5
    """Gradient penalty of real images."""

    def __post_init__(self) -> None:
        if isinstance(self.features, str) and self.features:
            object.__setattr__(self, "features", str(Path(self.features).absolute()))
        super().__post_init__()


def system(settings: Settings, images: ImageFormat) -> AdversarialStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    arguments, origin = drawing_base(settings, images)
    if not settings.features:
        raise UserError("--features must be a run of the recipe classifier, and none was given")
    classifier = trained_classifier(Path(settings.features), images.channels)
    widths = [level[0].out_channels for level in classifier.levels]  # type: ignore[index]
    heads = FeatureHeads(widths, len(images.class_names))
    made = AdversarialStudent(*(heads, classifier, *arguments), distillation=settings.distillation, r1=settings.r1)
    made.remembered = {"teacher": origin}
    return made


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

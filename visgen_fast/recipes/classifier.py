"""A small convolutional classifier, whose features serve perceptual losses and FID: a minute on two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..models.classifier import Classifier
from ..systems.classifier import ClassifierSystem
from ..training.bounds import AtLeast
from ._images import ImageSettings, held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """A classifier of residual blocks, trained on the labels of the images."""

    widths: Annotated[tuple[int, ...], AtLeast(1)] = (16, 32, 64)
    """Features at each level; each level has half the resolution of the one before."""
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 2e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.99
    sample_every: int = 0


def system(settings: Settings, images: ImageFormat) -> ClassifierSystem:
    """The system these settings describe, for images of this format."""
    return ClassifierSystem(
        Classifier(channels=images.channels, classes=len(images.class_names), widths=settings.widths)
    )


RECIPE = Recipe(Settings, training_images, system, held_out_images)

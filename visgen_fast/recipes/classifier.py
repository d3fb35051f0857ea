"""A small convolutional classifier, whose features serve perceptual losses and FID: a minute on two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..data.images import ImageFormat
from ..errors import UserError
from ..models.classifier import Classifier
from ..systems.classifier import ClassifierSystem
from ..training.bounds import AtLeast
from ._images import ImageSettings, held_out, images
from .runs import averaged_weights

__all__ = ["Settings", "held_out", "images", "system", "trained_classifier"]


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


def trained_classifier(path: Path, channels: int) -> Classifier:
    """The classifier of the run, or of the checkpoint, at `path`, in evaluation mode.

    The run is one of this recipe, or that of a tokenizer, whose checkpoints keep the classifier that it was given.
    Raises `UserError`, which names the argument --features, unless there is one for images of `channels` channels.
    """
    tensors = averaged_weights(path, ("classifier", "features"), "--features")
    try:
        classifier = Classifier.of_state(tensors)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"--features must be a run of the recipe classifier, but {path} holds no classifier") from error
    if classifier.channels != channels:
        raise UserError(
            f"--features must be a classifier of images of {channels} channels, but the one in {path} sees "
            f"{classifier.channels}"
        )
    return classifier.eval()

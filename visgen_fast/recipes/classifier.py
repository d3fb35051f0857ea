"""A small convolutional classifier, whose features serve perceptual losses and FID: a minute on two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..models.classifier import Classifier
from ..training import checkpoint
from ..training.classifier_system import ClassifierSystem
from ..training.data.pictures import PictureFormat
from ..training.errors import UserError
from ..training.settings import settings_from
from ._pictures import PictureSettings, held_out, pictures

__all__ = ["Settings", "held_out", "pictures", "system", "trained_classifier"]

NAME = "classifier"


@dataclass(frozen=True, kw_only=True)
class Settings(PictureSettings):
    """A classifier of residual blocks, trained on the labels of the pictures."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Features at each level; each level has half the resolution of the one before."""
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 2e-3
    decay: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.99
    sample_every: int = 0


def system(settings: Settings, pictures: PictureFormat) -> ClassifierSystem:
    """The system these settings describe, for pictures of this format."""
    return ClassifierSystem(
        Classifier(channels=pictures.channels, classes=len(pictures.class_names), widths=settings.widths)
    )


def trained_classifier(path: Path, channels: int) -> Classifier:
    """The classifier of the run, or of the checkpoint, at `path`, in evaluation mode.

    Raises `UserError` unless it is one that this recipe trained on pictures of `channels` channels.
    """
    saved = checkpoint.read(path)
    if saved.state["recipe"] != NAME:
        raise UserError(f"{path} holds no classifier but a run of the recipe {saved.state['recipe']}")
    format = PictureFormat.from_json(saved.state["pictures"])
    if format.channels != channels:
        raise UserError(f"the classifier in {path} sees {format.channels} channels, but the pictures have {channels}")
    trained = system(settings_from(Settings, saved.state["settings"]), format)
    saved.load_into(trained, "average")
    return trained.classifier.eval()

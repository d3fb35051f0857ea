"""A plain convolutional autoencoder, without codes: what the tokenizers' reconstructions are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..tokenizers import Autoencoder
from ..training.data.pictures import PictureFormat
from ..training.tokenizer_system import TokenizerSystem
from ._pictures import held_out, pictures
from ._tokenizer import TokenizerSettings, networks, tokenizer_system

__all__ = ["Settings", "held_out", "pictures", "system"]


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """An autoencoder on a grid of latent vectors."""

    LEAST: ClassVar[dict[str, float]] = {**TokenizerSettings.LEAST, "dimensions": 1}

    dimensions: int = 32
    """Features of a latent."""


def system(settings: Settings, pictures: PictureFormat) -> TokenizerSystem:
    """The system these settings describe, for pictures of this format."""
    return tokenizer_system(Autoencoder(*networks(settings, pictures, settings.dimensions)), settings, pictures)

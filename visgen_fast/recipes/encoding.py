"""What a first stage, and a text encoder, say of a whole data set, for all who train on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..training import checkpoint
from ._images import ImageSettings, training_images
from ._latents import LatentSettings, latents_of
from ._text import TextSettings, encoded

# Of a run's settings, those that say which images it sees.
_OF_IMAGES = ("dataset", "data", "size", "image_column", "label_column", "text_column")


@dataclass(frozen=True, kw_only=True)
class Encoding(LatentSettings):
    """Which data set, by which first stage, into which `cache`."""


@dataclass(frozen=True, kw_only=True)
class CaptionedEncoding(TextSettings, Encoding):
    """The same of the images that have captions, and the captions too."""


def encoding(run: Path, data: str, **given: Any) -> Encoding:
    """The settings to encode `data`, a name or a folder, with the run's first stage; "" is the run's own data set.

    Of captions too, where a `text_encoder` is given.
    """
    saved = checkpoint.read(run)
    own = {name: value for name in _OF_IMAGES if (value := saved.state["settings"].get(name)) is not None}
    if data:
        own = {"dataset": data, "size": saved.images.size}
    elif "dataset" not in own:
        raise UserError(f"{run} does not say which images it was trained on: give them as --data")
    elif own["dataset"] == "folder":
        own["dataset"] = own.pop("data", "")
    kind = CaptionedEncoding if "text_encoder" in given else Encoding
    return kind(**{**own, "first_stage": str(run), **given})


def encode_all(settings: Encoding, *, device: torch.device, told: Callable[[str], None]) -> tuple[int, int]:
    """Makes what the cache lacks, and returns how many images there are, and how many captions.

    told: is called with a line on how far it is. What training would raise.
    """
    images = training_images(settings)
    captions = images.format.class_names if isinstance(settings, CaptionedEncoding) else ()
    if captions and not images.format.captions:
        raise UserError(f"--text-encoder is for images with captions, which {_named(settings)} has none of")
    stage, _ = latents_of(settings, images.format)
    stage.to(device).source(
        images,
        mirrored=settings.horizontal_flip,
        workers=settings.workers,
        told=lambda count: told(f"{count:,} of {len(images):,} images"),
    )
    if isinstance(settings, CaptionedEncoding):
        encoded(settings, captions, settings.cache, told=lambda count: told(f"{count:,} of {len(captions):,} captions"))
    return len(images), len(captions)


def _named(settings: ImageSettings) -> str:
    return settings.data or settings.dataset

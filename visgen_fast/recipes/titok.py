"""TiTok: images as a short sequence of codes that stand for no place in them; Fashion-MNIST on two CPU cores.

Yu et al., "An image is worth 32 tokens for reconstruction and generation", 2024. Its second stage, in which only the
decoder learns, is a run with --decoder-of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from ..data.images import ImageFormat
from ..errors import UserError
from ..models.titok import TiTokDecoder, TiTokEncoder
from ..nn.residual_quantizer import VectorQuantizer
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import TiTok
from ..training.bounds import AtLeast
from ._images import training_images
from ._tokenizer import CodebookSettings, LossSettings, dead_below, held_out_images, tokenizer_system
from .recipe import Recipe
from .runs import averaged_weights


@dataclass(frozen=True, kw_only=True)
class Settings(CodebookSettings):
    """A one-dimensional tokenizer of transformers."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = (*LossSettings.OTHER_RUNS, "decoder_of")

    codes: int = 4096
    dimensions: int = 12
    tokens: Annotated[int, AtLeast(1)] = 32
    """Codes of an image."""
    patch_size: Annotated[int, AtLeast(1)] = 4
    """Side of the square of pixels that the transformers see as one patch."""
    width: Annotated[int, AtLeast(1)] = 64
    """Features of the transformers; 512, 768 and 1024 are the paper's S, B and L."""
    depth: Annotated[int, AtLeast(1)] = 3
    """Blocks of each transformer; 8, 12 and 24 are the paper's."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block; 8, 12 and 16 are the paper's."""
    learning: Literal["ema", "gradient"] = "ema"
    """Codes follow a moving average of the tokens they stand for, or the gradient of their distance to them."""
    steps: int = 5000
    decoder_of: str = ""
    """A run of this recipe, of the same sizes, whose encoder and codes are kept while the decoder learns on."""


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format."""
    sizes: dict[str, Any] = {
        "image_size": images.size,
        "channels": images.channels,
        "patch_size": settings.patch_size,
        "width": settings.width,
        "depth": settings.depth,
        "heads": settings.heads,
        "tokens": settings.tokens,
        "dimensions": settings.dimensions,
    }
    quantizer = VectorQuantizer(
        settings.codes,
        settings.dimensions,
        metric="cosine",
        commitment_weight=settings.commitment,
        learning=settings.learning,
        dead_below=dead_below(settings, settings.tokens, settings.codes),
        commit="manual",
    )
    tokenizer = TiTok(TiTokEncoder(**sizes), quantizer, TiTokDecoder(**sizes), decoder_only=bool(settings.decoder_of))
    if settings.decoder_of:
        _load(tokenizer, Path(settings.decoder_of))
    return tokenizer_system(tokenizer, settings, images)


def _load(tokenizer: TiTok, run: Path) -> None:
    """Gives `tokenizer` the averaged weights and the codes of another run of this recipe."""
    try:
        tokenizer.load_state_dict(averaged_weights(run, ("tokenizer",), "--decoder-of"))
    except RuntimeError as error:
        raise UserError(
            f"--decoder-of must be a run of the recipe titok with the same sizes, but {run} is not"
        ) from error


RECIPE = Recipe(Settings, training_images, system, held_out_images)

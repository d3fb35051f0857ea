"""The causal autoencoder of clips: a frame and f more are a latent each, and no frame sees a later one.

Yu et al., "Language model beats diffusion: tokenizer is key to visual generation" (MAGVIT-2), 2024; the losses are
those of latent diffusion's autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..models.causal_autoencoder import CausalDecoder, CausalEncoder
from ..systems.video_tokenizer import VideoTokenizerSystem
from ..tokenizers import KLAutoencoder
from ..training.bounds import AtLeast, Between
from ._clips import ClipSettings, frames_in
from ._images import training_images
from ._tokenizer import TokenizerSettings, held_out_images, network_sizes, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings, ClipSettings):
    """An autoencoder of clips, whose latents are normal distributions."""

    dataset: str = "moving-digits"
    """moving-digits, or a folder of videos and GIFs, which may have one sub-folder a class."""
    widths: Annotated[tuple[int, ...], AtLeast(1)] = (16, 32, 64)
    """Features at each level of encoder and decoder; each level has half the resolution of the one before."""
    patch_size: int = 1
    frame_reduction: Annotated[int, AtLeast(1)] = 4
    """Frames that become one latent, after the first one, which is a latent by itself; a power of two."""
    dimensions: Annotated[int, AtLeast(1)] = 4
    """Features of a latent."""
    kl: Annotated[float, Between(0, 1e6)] = 1e-6
    """Weight of the divergence of all latents from N(0, 1), in nats over the values of the clip."""
    shortcuts: bool = False
    """Pixels pass beside the convolutions that halve and double the resolution (DC-AE); large reductions want it."""
    pixel_loss: Literal["l1", "l2"] = "l1"
    batch_size: int = 16


def system(settings: Settings, images: ImageFormat) -> VideoTokenizerSystem:
    """The system these settings describe, for clips of this format. ValueError where the two don't fit."""
    frames, f = frames_in(images), settings.frame_reduction
    sizes: dict[str, Any] = {
        **network_sizes(settings, images),
        "frame_reduction": f,
        "shortcuts": settings.shortcuts,
    }
    encoder = CausalEncoder(dimensions=2 * settings.dimensions, **sizes)
    if frames % f != 1 % f:
        raise ValueError(f"frames must be 1 + k·{f}, a first one and {f} more for each latent, got {frames}")
    tokenizer = KLAutoencoder(encoder, CausalDecoder(dimensions=settings.dimensions, **sizes), settings.kl)
    made = tokenizer_system(tokenizer, settings, images, VideoTokenizerSystem)
    assert isinstance(made, VideoTokenizerSystem)
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)

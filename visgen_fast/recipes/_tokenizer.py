"""What the recipes of tokenizers share: convolutional networks, losses, and their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ..data.images import ImageFormat, Images
from ..errors import UserError
from ..models.autoencoder import Decoder, Encoder, reduction
from ..models.discriminator import PatchDiscriminator
from ..systems.tokenizer import ReconstructionLoss, TokenizerSystem
from ..tokenizers import Reconstructor
from ..training.bounds import AtLeast, Between
from . import _images
from ._frozen import absolute, feature_network
from ._images import ImageSettings


@dataclass(frozen=True, kw_only=True)
class LossSettings(ImageSettings):
    """What a tokenizer, whatever its networks are, is trained for."""

    OTHER_RUNS: ClassVar[tuple[str, ...]] = ("features",)

    pixel_loss: Literal["l1", "l2"] = "l2"
    """Absolute or squared differences of the pixels."""
    perceptual: Annotated[float, AtLeast(0)] = 0.0
    """Weight of the distance in the features of a network; above 0 it needs --features."""
    features: str = ""
    """A run of the recipe classifier on images of the same kind, or efficientnet-lite0; the metrics have rFID then."""
    adversarial: Annotated[float, AtLeast(0)] = 0.0
    """Weight of a discriminator's verdict, times the adaptive one; 0.75 is RQ-VAE's."""
    adversarial_start: Annotated[int, AtLeast(0)] = 0
    """Optimizer step at which the discriminator comes in."""
    discriminator_width: Annotated[int, AtLeast(1)] = 32
    """Features of the discriminator's first layer."""
    discriminator_layers: Annotated[int, AtLeast(1)] = 2
    """Halvings of the resolution in the discriminator."""
    adversary_lr_scale: Annotated[float, Between(0, 1000)] = 1.0
    """The discriminator's learning rate, over the tokenizer's."""
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 2e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        # As for the data: a run means the same from every working directory.
        if isinstance(self.features, str):
            object.__setattr__(self, "features", absolute(self.features))
        super().__post_init__()
        if self.adversarial and self.mixed_precision == "fp16":
            raise ValueError(
                "mixed_precision must be no or bf16 with adversarial: the adaptive weight is a ratio of gradients that "
                "fp16 cannot hold without scaling"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(LossSettings):
    """A convolutional tokenizer."""

    widths: Annotated[tuple[int, ...], AtLeast(1)] = (32, 64)
    """Features at each level of encoder and decoder; each level has half the resolution of the one before."""
    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the squares of pixels that the first level sees as one position each."""
    blocks: Annotated[int, AtLeast(0)] = 1
    """Residual blocks at each level."""
    attention: bool = False
    """Attention at the coarsest level."""


@dataclass(frozen=True, kw_only=True)
class CodebookSettings(LossSettings):
    """A tokenizer with a codebook."""

    codes: Annotated[int, AtLeast(2)] = 512
    """Codes in a codebook."""
    dimensions: Annotated[int, AtLeast(1)] = 32
    """Features of a code."""
    commitment: Annotated[float, AtLeast(0)] = 0.25
    """Weight of the distance of what is encoded to its codes."""


def network_sizes(settings: TokenizerSettings, images: ImageFormat) -> dict[str, Any]:
    """What encoder and decoder are made of, for images of this format; ValueError where the two don't fit."""
    factor = reduction(settings.widths, settings.patch_size)
    if images.height % factor or images.width % factor:
        raise ValueError(
            f"patch_size × 2^(levels of widths − 1) must divide the images' sides {images.height} and {images.width}, "
            f"got {factor}"
        )
    return {
        "channels": images.channels,
        "widths": settings.widths,
        "patch_size": settings.patch_size,
        "blocks": settings.blocks,
        "attention": settings.attention,
    }


def networks(
    settings: TokenizerSettings, images: ImageFormat, dimensions: int, *, said: int = 1, **options: Any
) -> tuple[Encoder, Decoder]:
    """Encoder and decoder, with more `options`, for images of this format and latents of `dimensions` features.

    The encoder says `said` numbers of each.
    """
    sizes = {**network_sizes(settings, images), **options}
    return Encoder(dimensions=said * dimensions, **sizes), Decoder(dimensions=dimensions, **sizes)


def dead_below(settings: LossSettings, vectors: int, codes: int) -> float:
    """How few vectors of a step make a code a dead one, where each image has `vectors`: a tenth of an equal share."""
    return 0.1 * settings.batch_size * vectors / codes


def tokenizer_system(
    tokenizer: Reconstructor,
    settings: LossSettings,
    images: ImageFormat,
    kind: Callable[..., TokenizerSystem] = TokenizerSystem,
) -> TokenizerSystem:
    """The system, of a `kind`, of `tokenizer` with the losses of the settings, for images of this format."""
    if settings.perceptual and not settings.features:
        raise UserError("--perceptual needs a trained classifier: give a run of the recipe classifier as --features")
    return kind(
        tokenizer,
        ReconstructionLoss(settings.pixel_loss, settings.perceptual, settings.adversarial, settings.adversarial_start),
        features=feature_network(settings.features, images.channels, "--features") if settings.features else None,
        discriminator=PatchDiscriminator(
            channels=images.channels, width=settings.discriminator_width, layers=settings.discriminator_layers
        )
        if settings.adversarial
        else None,
        adversary_lr_scale=settings.adversary_lr_scale,
    )


def held_out_images(settings: LossSettings) -> Images:
    """The images to measure on; `UserError` where they are too few for the metrics."""
    images = _images.held_out_images(settings)
    if settings.features and len(images) < 2:
        raise UserError(
            f"--features compares sets of at least 2 held-out images, but {settings.data or settings.dataset} has 1: "
            "one of every ten is held out"
        )
    return images

"""What the recipes of generators and discriminators share: the game and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ..data.images import ImageFormat
from ..nn.adversarial import Kind
from ..systems.adversarial import GameSettings
from ..training.bounds import AtLeast, Between
from ._images import ImageSettings

SMALL_IMAGES = ("fashion-mnist", "mnist", "photographs", "emoji")


@dataclass(frozen=True, kw_only=True)
class GANSettings(ImageSettings):
    """A generator, and a discriminator that it learns from."""

    kind: Kind = "non_saturating"
    """What the two play for; `visgen_fast.nn.adversarial` has the formulas."""
    r1: Annotated[float, Between(0, 1e6)] = 0.0
    """Weight γ of the discriminator's squared gradient at real images."""
    r2: Annotated[float, Between(0, 1e6)] = 0.0
    """The same at generated images."""
    penalty_every: Annotated[int, AtLeast(1)] = 1
    """Steps from one penalty to the next, which then counts so many times."""
    generator_every: Annotated[int, AtLeast(1)] = 1
    """The generator learns in every n-th step, the discriminator in all."""
    conditional: bool = True
    """Generate images of classes; otherwise labels are told to nobody."""
    latents: Annotated[int, AtLeast(1)] = 100
    """Features of the latent vector."""
    width: Annotated[int, AtLeast(1)] = 32
    """Features of both networks at the finest resolution; coarser ones have up to eight times as many."""
    discriminator_lr_scale: Annotated[float, Between(0, 1000, "(]")] = 1.0
    """The discriminator's learning rate, over the generator's."""
    batch_size: int = 64
    warmup_steps: int = 0
    gradient_clip: Annotated[float, Between(0, 1e9, "(]")] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixed_precision == "fp16":
            raise ValueError(
                "mixed_precision must be no or bf16 for a generator with a discriminator: their gradients, and the "
                "penalty's, would need a loss scale each under fp16"
            )


def game(settings: GANSettings, beta1: float) -> GameSettings:
    """What the two play for, by the settings."""
    return GameSettings(
        kind=settings.kind,
        r1=settings.r1,
        r2=settings.r2,
        penalty_every=settings.penalty_every,
        generator_every=settings.generator_every,
        beta1=beta1,
        lr_scale=settings.discriminator_lr_scale,
    )


def sizes(settings: GANSettings, images: ImageFormat) -> dict[str, Any]:
    """What both networks are made for."""
    return {
        "image_size": (images.height, images.width),
        "channels": images.channels,
        "width": settings.width,
        "classes": len(images.class_names) if settings.conditional else 0,
    }

"""StyleGAN: a generator whose latent vector becomes a style for every layer; styles are mixed, truncated, walked.

Karras, Laine and Aila, "A style-based generator architecture for generative adversarial networks", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ..data.images import ImageFormat
from ..models.stylegan import StyleDiscriminator, StyleGenerator
from ..nn.adversarial import Kind
from ..systems.adversarial import GANSystem
from ..training.bounds import AtLeast, Between
from ._gan import SMALL_IMAGES, GANSettings, game, sizes
from ._images import all_images
from .recipe import Recipe

# Of the optimizers' momentum, the paper's.
_BETA1 = 0.0


@dataclass(frozen=True, kw_only=True)
class Settings(GANSettings):
    """A generator with styles."""

    kind: Kind = "non_saturating"
    r1: float = 1.0
    penalty_every: int = 4
    latents: int = 128
    mapping_depth: Annotated[int, AtLeast(1)] = 8
    """Layers of the mapping network from latent vector to style."""
    mixing: Annotated[float, Between(0, 1)] = 0.9
    """Share of the images that have two styles in training, one for coarse layers and one for fine ones."""
    steps: int = 5000
    learning_rate: float = 2e-3
    ema_decay: float = 0.995


def system(settings: Settings, images: ImageFormat) -> GANSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    for_both = sizes(settings, images)
    generator = StyleGenerator(
        latents=settings.latents, depth=settings.mapping_depth, mixing=settings.mixing, **for_both
    )
    return GANSystem(generator, StyleDiscriminator(**for_both), game(settings, _BETA1))


PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"steps": 2000, "checkpoint_every": 1000},
    **dict.fromkeys(SMALL_IMAGES, {"steps": 10_000, "checkpoint_every": 1000}),
    "folder": {
        **{"steps": 50_000, "latents": 256, "r1": 10.0, "penalty_every": 16, "ema_decay": 0.999},
        **{"checkpoint_every": 2000, "sample_every": 2000, "horizontal_flip": True},
    },
}
RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

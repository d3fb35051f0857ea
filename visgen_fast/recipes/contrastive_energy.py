"""Contrastive energy: an energy-based model that chains of its own samples teach, from a buffer that seeds rebuild.

Hinton, "Training products of experts by minimizing contrastive divergence", 2002; Du and Mordatch, "Implicit generation
and modeling with energy-based models", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..energies.replay import ReplayBuffer
from ..systems.contrastive import ContrastiveSystem, NoisyEnergy
from ..training.bounds import AtLeast, Between
from ._diffusion import DIT_PRESETS, DiTSettings, dit
from ._images import ImageSettings, held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """A class-conditional energy, learned by contrast."""

    noise: Annotated[float, Between(0, 1, "(]")] = 0.1
    """Standard deviation of the noise on images, which drawn ones are cleaned of."""
    chain_steps: Annotated[int, AtLeast(1)] = 10
    """Steps of Langevin dynamics of a chain in training, from a state of the buffer on."""
    buffer_steps: Annotated[int, AtLeast(1)] = 50
    """Steps by which the buffer's states come from noise."""
    step_size: Annotated[float, Between(0, 1, "(]")] = 0.1
    """Of a step, over the square of the noise."""
    per_class: Annotated[int, AtLeast(1)] = 32
    """States of each class in the buffer."""
    refresh: Annotated[int, AtLeast(1)] = 20
    """Optimizer steps after which the buffer is drawn anew; with old states the energy of a mode overshoots."""
    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the square of pixels that becomes one token."""
    width: Annotated[int, AtLeast(4)] = 128
    """Features of a token."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dataset: str = "digits"


def system(settings: Settings, images: ImageFormat) -> ContrastiveSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    sizes = {name: getattr(settings, name) for name in ("patch_size", "width", "depth", "heads")}
    energy = NoisyEnergy(dit(DiTSettings(**sizes), images), settings.noise)
    buffer = ReplayBuffer(
        energy,
        images.shape,
        classes=len(images.class_names),
        per_class=settings.per_class,
        refresh=settings.refresh,
        steps=settings.buffer_steps,
        step_size=settings.step_size * settings.noise**2,
        seed=settings.seed,
    )
    return ContrastiveSystem(energy, buffer, steps=settings.chain_steps)


PRESETS = {**DIT_PRESETS, "digits": {**DIT_PRESETS["digits"], "learning_rate": 5e-4}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

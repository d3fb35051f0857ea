"""Variational autoencoder: images from one vector of latents, with a bound of their likelihood.

Kingma and Welling, "Auto-encoding variational Bayes", 2014; Higgins et al., "beta-VAE", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..models.vae import VAE
from ..nn.likelihoods import Likelihood
from ..systems.vae import VAESystem
from ..training.bounds import AtLeast, Between
from ._images import ImageSettings, held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """A variational autoencoder of fully connected layers."""

    latents: Annotated[int, AtLeast(1)] = 16
    """Numbers that an image is told in."""
    hidden: Annotated[tuple[int, ...], AtLeast(1)] = (512, 256)
    """Features of the encoder's hidden layers, and, the other way round, of the decoder's; --hidden alone is linear."""
    likelihood: Likelihood = "gaussian"
    """Of pixels around the decoder's output; gaussian and logistic learn how far."""
    beta: Annotated[float, Between(0, 1e6)] = 1.0
    """Weight of the latents' divergence from N(0, 1); 1 is the bound of the likelihood."""
    steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.99


def system(settings: Settings, images: ImageFormat) -> VAESystem:
    """The system these settings describe, for images of this format."""
    vae = VAE(shape=images.shape, latents=settings.latents, hidden=settings.hidden)
    return VAESystem(vae, settings.likelihood, settings.beta)


PRESETS: dict[str, dict[str, Any]] = {"digits": {"steps": 2000, "hidden": (128, 64), "latents": 8}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

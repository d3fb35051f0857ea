"""Layers between an image and one vector of latents, as in the first variational autoencoders.

Kingma and Welling, "Auto-encoding variational Bayes", 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nn.posterior import DiagonalGaussian
from .layers.checks import check_sizes


class VAE(nn.Module):
    """An encoder to the normal distributions of `latents` numbers, and a decoder back, of fully connected layers.

    shape: of an image, (channels, height, width); hidden: features of the encoder's hidden layers, the decoder has them
    the other way round; without any the autoencoder is linear. ValueError for sizes below 1.

    `log_scale` is the logarithm of the spread around what the decoder says, of all pixels, to be learned.
    """

    def __init__(self, *, shape: Sequence[int], latents: int = 16, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        check_sizes(shape=shape, latents=latents, hidden=hidden)
        self.shape, self.latents = tuple(shape), latents
        self.encoder = _layers((math.prod(shape), *hidden, 2 * latents))
        self.decoder = _layers((latents, *reversed(hidden), math.prod(shape)))
        self.log_scale = nn.Parameter(torch.tensor(-1.0))

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The distributions of the latents [B, latents] of images [B, *shape]."""
        return DiagonalGaussian.of(self.encoder(images.flatten(1)))

    def decode(self, latents: Tensor) -> Tensor:
        """[B, latents] to [B, *shape], which `nn.likelihoods` gives a meaning."""
        return self.decoder(latents).unflatten(1, self.shape)


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place, pair in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers += [*([nn.SiLU()] if place else []), nn.Linear(*pair)]
    return nn.Sequential(*layers)

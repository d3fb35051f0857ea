"""The autoencoder of latent diffusion: an encoder that says a grid of normal distributions near N(0, 1), and a decoder.

Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022, appendix G.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..models.autoencoder import Decoder, Encoder
from ..models.causal_autoencoder import CausalDecoder, CausalEncoder
from ..nn.posterior import DiagonalGaussian
from ..nn.quantized import Quantized
from .tokenizer import Reconstruction, Reconstructor


class KLAutoencoder(Reconstructor):
    """An encoder to means and log-variances [B, 2·D, h, w], and a decoder of latents [B, D, h, w]; of clips with time.

    With seeds a reconstruction is that of latents drawn by them, without those of the means. Its `quantized` has these
    latents [B, h, w, D], no codes, and as loss `weight` times the divergence from N(0, 1): the mean over the grid is
    that of the whole image in nats, divided by the number of its values, as the mean over pixels of another loss is.
    """

    def __init__(self, encoder: Encoder | CausalEncoder, decoder: Decoder | CausalDecoder, weight: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.weight = encoder, decoder, weight

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def encode_posterior(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def draw_latents(self, posterior: Tensor, seeds: Tensor | None) -> Tensor:
        said = DiagonalGaussian.of(posterior)
        return said.mean if seeds is None else said.sample(seeds)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents.to(self.last_layer.dtype))

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        posterior = self.posterior(images)
        latents = posterior.mean if seeds is None else posterior.sample(seeds)
        return Reconstruction(self.decode_latents(latents), self.outcome(posterior, latents, images))

    def posterior(self, images: Tensor) -> DiagonalGaussian:
        """The distributions of the latents [B, D, h, w]."""
        return DiagonalGaussian.of(self.encoder(images))

    def outcome(self, posterior: DiagonalGaussian, latents: Tensor, images: Tensor) -> Quantized:
        """What a reconstruction of `images` says beside the image."""
        vectors = latents.movedim(1, -1)
        codes = vectors.new_empty((*vectors.shape[:-1], 0)).long()
        share = math.prod(latents.shape[2:]) / math.prod(images.shape[1:])
        return Quantized(vectors, codes, self.weight * share * posterior.kl().sum(1))

"""The plain autoencoder: a tokenizer's encoder and decoder with nothing between them, to measure what codes cost."""

from __future__ import annotations

from torch import Tensor

from ..models.autoencoder import Decoder, Encoder
from ..nn.quantized import Quantized
from .tokenizer import Reconstruction, Reconstructor


class Autoencoder(Reconstructor):
    """Encoder and decoder; a reconstruction's `quantized` has the latents as they are, no codes, and no loss."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def encode_posterior(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        latents = self.encoder(images)
        vectors = latents.permute(0, 2, 3, 1)
        codes = vectors.new_empty((*vectors.shape[:-1], 0)).long()
        unchanged = Quantized(vectors, codes, vectors.new_zeros(vectors.shape[:-1]).float())
        return Reconstruction(self.decoder(latents), unchanged)

"""Tokenizers whose codes lie on a grid: encoder, quantizer, decoder.

Which one it is, the quantizer says: with `VectorQuantizer` a VQ-VAE (van den Oord, Vinyals and Kavukcuoglu, "Neural
discrete representation learning", 2017), with `ResidualQuantizer` an RQ-VAE (Lee et al., "Autoregressive image
generation using residual quantization", 2022), with `LookupFree` that of MAGVIT-v2 (Yu et al., "Language model beats
diffusion", 2023), with `FSQ` that of Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.autoencoder import Decoder, Encoder
from ..nn.quantizer import Quantizer
from .tokenizer import Reconstruction, Tokenizer


class GridTokenizer(Tokenizer):
    """Encoder to latents [B, h, w, D], quantizer of each, decoder.

    ValueError where the encoder's latents are not of the quantizer's dimensions.
    """

    def __init__(self, encoder: Encoder, quantizer: Quantizer, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def latents(self, images: Tensor) -> Tensor:
        """The vectors to quantize: [B, C, H, W] to [B, h, w, D]."""
        return self.encoder(images).permute(0, 2, 3, 1)

    def images_of(self, latents: Tensor) -> Tensor:
        """The images of quantized vectors: [B, h, w, D] to [B, C, H, W]."""
        return self.decoder(latents.permute(0, 3, 1, 2))

    def encode_posterior(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.images_of(self.quantizer(latents.permute(0, 2, 3, 1)).quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.quantizer(self.latents(images)).codes

    def decode(self, codes: Tensor) -> Tensor:
        return self.images_of(self.vectors(codes))

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        quantized = self.quantizer(self.latents(images), seeds=seeds)
        return Reconstruction(self.images_of(quantized.quantized), quantized)

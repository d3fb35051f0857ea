"""TiTok: an image as a short sequence of tokens without places (Yu et al., "An image is worth 32 tokens", 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.titok import TiTokDecoder, TiTokEncoder
from ..nn.quantized import Quantized
from ..nn.quantizer import Quantizer
from .tokenizer import Reconstruction, Tokenizer


class TiTok(Tokenizer):
    """Transformer to latent tokens [B, L, D], quantizer of each, transformer to pixels.

    The paper's quantizer is a codebook of 4096 codes of 12 dimensions; tokens and codes have length 1, as
    `VectorQuantizer` with metric="cosine" gives them. With `decoder_only`, its second stage, encoder and quantizer stay
    as they are and add nothing to the loss: only the decoder learns.
    """

    def __init__(
        self, encoder: TiTokEncoder, quantizer: Quantizer, decoder: TiTokDecoder, *, decoder_only: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.decoder_only = decoder_only
        if decoder_only:
            encoder.requires_grad_(False)
            quantizer.requires_grad_(False)
            self.train()

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.smooth.weight

    def train(self, mode: bool = True) -> TiTok:
        """Training mode, in which a frozen quantizer must not be: its codebook would learn."""
        super().train(mode)
        if self.decoder_only:
            self.encoder.eval()
            self.quantizer.eval()
        return self

    def latents(self, images: Tensor) -> Tensor:
        """The tokens to quantize: [B, C, H, W] to [B, L, D]."""
        return self.encoder(images)

    def encode_posterior(self, images: Tensor) -> Tensor:
        """The sequence as a grid of one row."""
        return self.latents(images).transpose(1, 2)[:, :, None]

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.decoder(self.quantizer(latents[:, :, 0].transpose(1, 2)).quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.quantizer(self.latents(images)).codes

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.vectors(codes))

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        quantized = self.quantizer(self.latents(images), seeds=seeds)
        if self.decoder_only:
            quantized = Quantized(quantized.quantized, quantized.codes, torch.zeros_like(quantized.loss))
        return Reconstruction(self.decoder(quantized.quantized), quantized)

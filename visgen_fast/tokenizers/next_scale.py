"""VAR's tokenizer: an image as maps of codes at rising resolutions, the first of a single code.

Tian et al., "Visual autoregressive modeling: scalable image generation via next-scale prediction", 2024, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.autoencoder import Decoder, Encoder
from ..nn.next_scale_quantizer import MultiscaleQuantizer
from .tokenizer import Reconstruction, Tokenizer


class MultiscaleTokenizer(Tokenizer):
    """Encoder to features [B, D, H, W], multiscale quantizer of the whole map, decoder; a 3×3 convolution between each.

    Codes are [B, L, 1], the scales one after the other, coarse to fine; those of the first scales decode as well.
    """

    quantizer: MultiscaleQuantizer

    def __init__(self, encoder: Encoder, quantizer: MultiscaleQuantizer, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.before = nn.Conv2d(quantizer.dimensions, quantizer.dimensions, 3, padding=1)
        self.after = nn.Conv2d(quantizer.dimensions, quantizer.dimensions, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def features(self, images: Tensor) -> Tensor:
        """What is quantized: [B, C, h, w] to [B, D, H, W]."""
        return self.before(self.encoder(images))

    def images_of(self, features: Tensor) -> Tensor:
        """The images of quantized features: [B, D, H, W] to [B, C, h, w]."""
        return self.decoder(self.after(features))

    def encode_posterior(self, images: Tensor) -> Tensor:
        return self.features(images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.images_of(self.quantizer(latents).quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return torch.cat(self.quantizer.to_codes(self.features(images)), 1)[..., None]

    def decode(self, codes: Tensor) -> Tensor:
        return self.images_of(self.vectors(codes))

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        quantized = self.quantizer(self.features(images), seeds=seeds)
        return Reconstruction(self.images_of(quantized.quantized), quantized)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """The reconstructions after each scale."""
        prefixes = self.quantizer.prefix_features(self.encode(images))
        names = [f"{rows}x{columns}" for rows, columns in self.quantizer.grids]
        return {
            name: self.images_of(features.to(self.last_layer.dtype))
            for name, features in zip(names, prefixes, strict=True)
        }

"""An autoencoder with latents at several resolutions: a coarse grid first, and what is missing on ever finer ones.

Any number of the first grids makes an image. The idea of a pyramid of latents is that of Yang, "Ultra-high-resolution
image synthesis with pyramid diffusion model", 2024; its levels here are those of Burt and Adelson, "The Laplacian
pyramid as a compact image code", 1983, of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.autoencoder import Decoder, Encoder
from ..nn.dropout import draw_active_depths
from ..nn.quantized import Quantized
from .tokenizer import Reconstruction, Reconstructor


class PyramidAutoencoder(Reconstructor):
    """Encoder to features [B, D, h, h], which are the sum of grids of rising `sides`, the last h; decoder of the sum.

    A prior's latents are the grids one after the other, [B, D, 1, L]. In training, where there are seeds, a share
    `dropout` of the images is decoded from a random number of the first grids alone.

    ValueError unless sides rise.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, sides: Sequence[int], dropout: float) -> None:
        super().__init__()
        if not sides or sides[0] < 1 or any(fine <= coarse for coarse, fine in zip(sides, sides[1:], strict=False)):
            raise ValueError(f"sides must be rising numbers of at least 1, got {tuple(sides)}")
        self.encoder, self.decoder, self.sides, self.dropout = encoder, decoder, tuple(sides), dropout

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(side**2 for side in self.sides)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The grids [B, D, side, side] of images."""
        rest, found = self.encoder(images), []
        for side in self.sides:
            found.append(F.interpolate(rest, (side, side), mode="area") if side < self.sides[-1] else rest)
            rest = rest - self._enlarged(found[-1])
        return found

    def images_of(self, levels: Sequence[Tensor]) -> Tensor:
        """The images of the first grids, one or more."""
        features = torch.stack([self._enlarged(level) for level in levels]).sum(0)
        return self.decoder(features.to(self.last_layer.dtype))

    def encode_posterior(self, images: Tensor) -> Tensor:
        return torch.cat([level.flatten(2) for level in self.levels(images)], 2)[:, :, None]

    def decode_latents(self, latents: Tensor) -> Tensor:
        parts = latents[:, :, 0].split(self.lengths, 2)
        return self.images_of([part.unflatten(2, (side, side)) for part, side in zip(parts, self.sides, strict=True)])

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        levels = self.levels(images)
        if self.training and seeds is not None:
            kept = draw_active_depths(seeds, len(levels), probability=self.dropout)[:, None, None, None]
            levels = [torch.where(place < kept, level, 0) for place, level in enumerate(levels)]
        vectors = torch.cat([level.flatten(2) for level in levels], 2).mT
        codes = vectors.new_empty((*vectors.shape[:-1], 0)).long()
        nothing = Quantized(vectors, codes, vectors.new_zeros(vectors.shape[:-1]).float())
        return Reconstruction(self.images_of(levels), nothing)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """The reconstructions from one grid, from two, and so on."""
        levels = self.levels(images)
        return {f"{side}x{side}": self.images_of(levels[: place + 1]) for place, side in enumerate(self.sides)}

    def _enlarged(self, level: Tensor) -> Tensor:
        side = self.sides[-1]
        return level if level.shape[-1] == side else F.interpolate(level, (side, side), mode="bilinear")

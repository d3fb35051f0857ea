"""VQ-VAE-2: an image as a coarse grid of codes for what is global in it, and a finer one for the rest.

Razavi, van den Oord and Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.autoencoder import Decoder, Encoder, reduction
from ..nn.quantized import Quantized
from ..nn.quantizer import Quantizer
from ..nn.quantizer_sequence import QuantizerSequence
from .tokenizer import Reconstruction, Tokenizer


class VQVAE2(Tokenizer):
    """A hierarchy of two levels: the bottom, in the paper, a quarter of the image's size, the top half of that.

    The top's codes come first. Decoded to the bottom's size, they help to encode the bottom; the image is decoded
    from both. Codes are [B, top's rows·columns + bottom's, 1], each row by row.

    Args:
        size: pixels of the images, one number or (height, width).
        channels: of the images.
        top, bottom: the quantizers, both of the same dimensions, which the paper has as 64, with 512 codes each.
        widths, patch_size, blocks: of the bottom's `Encoder` and `Decoder`; the last width and the blocks are the
            top's too.
        attention: at the coarsest level of the bottom's networks and of the top's.

    ValueError where an argument does not fit the above, or the top's grid is not half of the bottom's.
    """

    quantizer: QuantizerSequence

    def __init__(
        self,
        *,
        size: int | tuple[int, int],
        channels: int,
        top: Quantizer,
        bottom: Quantizer,
        widths: Sequence[int] = (64, 128, 128),
        patch_size: int = 1,
        blocks: int = 2,
        attention: bool = False,
    ) -> None:
        super().__init__()
        height, breadth = (size, size) if isinstance(size, int) else size
        factor = reduction(widths, patch_size)
        if any(side < 1 or side % (2 * factor) for side in (height, breadth)):
            raise ValueError(f"size must be divisible by {2 * factor}, twice the bottom's reduction, got {size}")
        self.grids = [(height // f, breadth // f) for f in (2 * factor, factor)]
        self.quantizer = QuantizerSequence([top, bottom], [rows * columns for rows, columns in self.grids])
        dimensions, width = top.dimensions, widths[-1]
        both: dict[str, Any] = {"blocks": blocks, "attention": attention}
        outer = {**both, "channels": channels, "widths": widths, "patch_size": patch_size}
        inner = {**both, "widths": (width, width), "dimensions": dimensions}
        self.encode_bottom = Encoder(**outer, dimensions=width)
        self.encode_top = Encoder(**inner, channels=width)
        self.decode_top = Decoder(**inner, channels=dimensions)
        self.join = nn.Conv2d(width + dimensions, dimensions, 1)
        self.enlarge_top = nn.ConvTranspose2d(dimensions, dimensions, 4, stride=2, padding=1)
        self.decoder = Decoder(**outer, dimensions=2 * dimensions)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.last_layer

    def forward(self, images: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        """See `Tokenizer`. The loss, [B, 1], is the sum of both levels'."""
        top, bottom = self._quantize(images, seeds)
        quantized = Quantized(
            torch.cat([_sequence(top.quantized), _sequence(bottom.quantized)], 1),
            torch.cat([_sequence(top.codes), _sequence(bottom.codes)], 1),
            (top.loss.flatten(1).mean(1) + bottom.loss.flatten(1).mean(1))[:, None],
        )
        return Reconstruction(self._images_of(top.quantized, bottom.quantized), quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([_sequence(level.codes) for level in self._quantize(images, None)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        return self._images_of(*self._levels(codes))

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """The reconstruction with zeros in the place of the bottom's vectors, and the full one."""
        top, bottom = self._levels(self.encode(images))
        return {"top only": self._images_of(top, torch.zeros_like(bottom)), "full": self._images_of(top, bottom)}

    def _quantize(self, images: Tensor, seeds: Tensor | None) -> tuple[Quantized, Quantized]:
        """The top's vectors quantized, [B, h, w, D], then the bottom's."""
        quantize_top, quantize_bottom = self.quantizer.parts
        features = self.encode_bottom(images)
        top = quantize_top(self.encode_top(features).permute(0, 2, 3, 1), seeds=seeds)
        context = self.decode_top(top.quantized.permute(0, 3, 1, 2))
        bottom = self.join(torch.cat((context, features), 1)).permute(0, 2, 3, 1)
        return top, quantize_bottom(bottom, seeds=seeds)

    def _levels(self, codes: Tensor) -> list[Tensor]:
        """The top's and the bottom's vectors [B, h, w, D] of codes [B, L, 1]."""
        vectors = self.vectors(codes).split(self.quantizer.lengths, 1)
        return [some.unflatten(1, grid) for some, grid in zip(vectors, self.grids, strict=True)]

    def _images_of(self, top: Tensor, bottom: Tensor) -> Tensor:
        enlarged = self.enlarge_top(top.permute(0, 3, 1, 2))
        return self.decoder(torch.cat((enlarged, bottom.permute(0, 3, 1, 2)), 1))


def _sequence(grid: Tensor) -> Tensor:
    """[B, h, w, n] as [B, h·w, n]."""
    return grid.flatten(1, 2)

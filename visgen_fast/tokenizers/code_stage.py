"""The first stage of a model of codes: a trained tokenizer, or pixels as codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.images import Images, evenly, to_range
from .pixels import PixelCodes, fit_palette

_PALETTE_PIXELS = 2**16  # that a palette is found among


class CodeStage(nn.Module):
    """Images [B, C, H, W] in [−1, 1] to codes int64 [B, *grid, Q], and back; it stays as it is, in evaluation mode.

    tokenizer: with `encode` and `decode`. shape: [*grid, Q].
    """

    def __init__(self, tokenizer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.tokenizer, self.shape = tokenizer.eval().requires_grad_(False), tuple(shape)

    def train(self, mode: bool = True) -> CodeStage:
        """Evaluation mode always: quantizers would learn."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The codes of images, which no seed decides."""
        with torch.autocast(images.device.type, enabled=False):
            return self.tokenizer.encode(images)  # type: ignore[operator]

    def encode_read(self, read: Tensor, seeds: Tensor) -> Tensor:
        return self.encode(to_range(read))

    def source(self, images: Images, *, mirrored: bool) -> Images:
        return images

    def decode(self, codes: Tensor) -> Tensor:
        return self.tokenizer.decode(codes)  # type: ignore[operator]

    def measure(self, images: Images) -> None:
        """Finds the palette of pixels that have one, among those of the images."""
        if isinstance(self.tokenizer, PixelCodes) and self.tokenizer.palette is not None:
            some = max(1, _PALETTE_PIXELS // (images.format.height * images.format.width))
            pixels, _, _ = images.read(evenly(len(images), some))
            self.tokenizer.palette.copy_(fit_palette(to_range(pixels), len(self.tokenizer.palette)))

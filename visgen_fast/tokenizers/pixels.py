"""Pixels as codes: a tokenizer without a network, which loses nothing at 256 levels.

Channels and palette: Chen et al., "Generative pretraining from pixels", 2020; fewer bits: Kingma and Dhariwal, "Glow",
2018; planes: Menick and Kalchbrenner, "Generating high fidelity images with subscale pixel networks", 2019.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..models.layers.patches import patchify, unpatchify

_ITERATIONS = 20


class PixelCodes(nn.Module):
    """Images [B, C, H, W] in [−1, 1] to codes int64 [B, *grid, Q] and back.

    A code is ⌊pixel·levels/256⌋ of a pixel from 0 to 255, and decoded it is the pixel round(code·255/(levels − 1)). The
    arrays are, with N values of a code:

    - "channels": [H, W, C], N = levels.
    - "planes": [H, W, bits·C], N = 2: the bits of a code, the most significant of all channels first.
    - "tiles": [H/tile, W/tile, tile²·C], N = levels: the pixels of a tile row by row, a pixel's channels together.

    With a palette the nearest of its colours takes the place of a pixel's channels: C is 1 above, and N their number.

    shape: [*grid, Q]; code_size: N.

    Args:
        size: pixels of the images, one number or (height, width).
        channels: of the images.
        levels: 2 to 256; a power of two for "planes".
        layout: "channels", "planes" or "tiles".
        tile: pixels along a tile's side, which divides both sides of the images.
        palette: colours [N, channels] in [−1, 1], as of `fit_palette`; not for "planes".

    ValueError where an argument does not fit the above.
    """

    palette: Tensor | None

    def __init__(
        self,
        size: int | tuple[int, int],
        channels: int,
        levels: int = 256,
        layout: Literal["channels", "planes", "tiles"] = "channels",
        tile: int = 4,
        palette: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.image_size = (size, size) if isinstance(size, int) else size
        self.channels, self.levels, self.layout, self.tile = channels, levels, layout, tile
        self.bits = levels.bit_length() - 1
        self._check(palette)
        self.register_buffer("palette", palette)
        height, width = self.image_size
        codes = channels if palette is None else 1
        self.shape = {
            "channels": (height, width, codes),
            "planes": (height, width, self.bits * codes),
            "tiles": (height // tile, width // tile, tile**2 * codes),
        }[layout]
        self.code_size = 2 if layout == "planes" else levels if palette is None else len(palette)

    def _check(self, palette: Tensor | None) -> None:
        for name, value in {"size": min(self.image_size), "channels": self.channels, "tile": self.tile}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must lie in [2, 256], got {self.levels}")
        if self.layout not in ("channels", "planes", "tiles"):
            raise ValueError(f"layout must be channels, planes or tiles, got {self.layout!r}")
        if self.layout == "planes" and self.levels != 1 << self.bits:
            raise ValueError(f"levels must be a power of two for planes, got {self.levels}")
        if self.layout == "tiles" and any(side % self.tile for side in self.image_size):
            raise ValueError(f"tile must divide both sides of the images, {self.image_size}, got {self.tile}")
        if palette is None:
            return
        if self.layout == "planes":
            raise ValueError("a palette has no planes: layout must be channels or tiles")
        if palette.dim() != 2 or palette.shape[1] != self.channels or not palette.is_floating_point():
            raise ValueError(f"palette must be floating-point [N, {self.channels}], got {list(palette.shape)}")

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to codes int64 [B, *shape]."""
        if self.palette is None:
            pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).long()
            codes = pixels * self.levels >> 8
        else:
            colours = images.float().permute(0, 2, 3, 1).reshape(-1, self.channels)
            codes = ops.nearest_code(colours, self.palette.float()).view(len(images), 1, *self.image_size)
        if self.layout == "tiles":
            return patchify(codes, self.tile).unflatten(1, self.shape[:2])
        codes = codes.permute(0, 2, 3, 1)
        if self.layout == "planes":
            return (codes[..., None, :] >> self._places(codes) & 1).flatten(3)
        return codes.contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, *shape] to images float32 [B, C, H, W]."""
        if self.layout == "tiles":
            codes = unpatchify(codes.flatten(1, 2), self.tile, self.image_size)
        else:
            if self.layout == "planes":
                bits = codes.unflatten(3, (self.bits, -1))
                codes = (bits << self._places(codes)).sum(3)
            codes = codes.permute(0, 3, 1, 2)
        if self.palette is not None:
            return self.palette.float()[codes[:, 0]].permute(0, 3, 1, 2)
        return (codes * 255 / (self.levels - 1)).round() / 127.5 - 1

    def _places(self, like: Tensor) -> Tensor:
        """By how much each bit is shifted, [bits, 1]."""
        return torch.arange(self.bits - 1, -1, -1, device=like.device)[:, None]


def fit_palette(images: Tensor, colours: int, *, seed: int = 0) -> Tensor:
    """The centres [colours, C] of the clusters of the pixels of images [B, C, H, W] in [−1, 1], by k-means; dark first.

    ValueError where the images have fewer colours. Source: Arthur and Vassilvitskii, "k-means++: the advantages of
    careful seeding", 2007, for where it begins.
    """
    pixels = images.float().movedim(1, -1).flatten(0, -2)
    there = len(pixels.unique(dim=0))
    if not 1 <= colours <= there:
        raise ValueError(f"colours must lie in [1, {there}], the number that the images have, got {colours}")
    centres = _first_centres(pixels, colours, torch.tensor([seed], device=pixels.device))
    for _ in range(_ITERATIONS):
        codes = ops.nearest_code(pixels, centres)
        counts, sums = ops.codebook_statistics(pixels, codes[:, None], centres[None])
        centres = torch.where(counts[0, :, None] > 0, sums[0] / counts[0, :, None].clamp_min(1), centres)
    return centres[centres.sum(1).argsort(stable=True)]


def _first_centres(pixels: Tensor, colours: int, seed: Tensor) -> Tensor:
    """Pixels [colours, C], each drawn with a probability that grows with its squared distance from those before."""
    distance = torch.ones_like(pixels[:, 0])
    chosen = []
    for index in range(colours):
        chosen.append(pixels[ops.sample_tokens(distance.log()[None], seed, stream=index)])
        nearest = (pixels - chosen[-1]).square().sum(1)
        distance = nearest if index == 0 else torch.minimum(distance, nearest)
    return torch.cat(chosen)

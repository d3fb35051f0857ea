"""U-ViT, the network of simple diffusion: convolutions at high resolutions, a transformer at the lowest.

Hoogeboom, Heek and Salimans, "Simple diffusion: end-to-end diffusion for high resolution images", 2023, sections 3.3 to
3.5; without its skips: Hoogeboom et al., "Simpler diffusion (SiD2)", 2024. Pixels lose their resolution at once, to
patches or to the bands of a wavelet; parameters, attention and dropout lie where an image has few positions left. Time
and class modulate every block, as in DiT; branches and output begin at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.modulated import ResidualStream
from ..nn.state import RefilledBuffers
from .layers.checks import check_images, check_sizes, check_transformer
from .layers.embeddings import TimeEmbedding, sincos_positions
from .layers.labels import ClassEmbedding
from .layers.residual import ModulatedResidualBlock, group_norm, zeroed
from .layers.transformer import Block, initialize
from .layers.wavelet import inverse_wavelet, wavelet

FIRST = ("patches", "wavelet")
SKIPS = ("blocks", "residual")


class UViT(nn.Module):
    """A class-conditional U-ViT.

    image_size: pixels, one number or (height, width); channels: of input and output; patch_size: pixels along the side
    of the square that becomes one position; first: how it does, as its pixels ("patches") or as the bands of a 5/3
    wavelet of log₂(patch_size) levels ("wavelet"); stages: features of each convolutional stage, the finest first, each
    with twice the resolution of the next; blocks: residual blocks of a stage on the way down, and as many on the way
    up; width, depth, heads: of the transformer, at half the resolution of the last stage; classes: number of labels, to
    which `null_label` = classes is added as "no class"; mlp_ratio, dropout: of the transformer, as in DiT;
    conditioning: what `t` is, a time or the level λ, as the objective's `conditioning` says; given: channels that the
    network reads behind those of x_t.

    skips: what the way up gets from the way down. "blocks": each block the output of its counterpart, beside its own
    input (simple diffusion). "residual": each stage h ← up(h − low) + high, with `high` and `low` the features before
    and after their resolution was halved, so that no block's output has to be kept (SiD2).

    ValueError where a size is below 1, patch_size, doubled for each stage, does not divide the image, patch_size is no
    power of 2 for a wavelet, heads does not divide width, width is no multiple of 4, or a name is unknown.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        stages: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        classes: int,
        patch_size: int = 1,
        first: Literal["patches", "wavelet"] = "patches",
        blocks: int = 1,
        skips: Literal["blocks", "residual"] = "blocks",
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        conditioning: Literal["time", "log_snr"] = "time",
        given: int = 0,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = height, breadth
        sizes = {"channels": channels, "patch_size": patch_size, "blocks": blocks, "width": width, "depth": depth}
        check_sizes(image_size=self.image_size, stages=stages, heads=heads, **sizes)
        check_transformer(width, heads)
        for name, value, known in (("first", first, FIRST), ("skips", skips, SKIPS)):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, got {value!r}")
        if first == "wavelet" and patch_size & (patch_size - 1):
            raise ValueError(f"patch_size must be a power of 2 for a wavelet, got {patch_size}")
        reduction = patch_size * 2 ** len(stages)
        if height % reduction or breadth % reduction:
            raise ValueError(
                f"patch_size, doubled for each stage, must divide image_size {self.image_size}, got {reduction}"
            )
        self.channels, self.patch_size, self.first, self.null_label = channels, patch_size, first, classes
        self.given = given

        self.embed_time = TimeEmbedding(width, conditioning=conditioning)
        self.embed_label = ClassEmbedding(classes, width)
        finest, *below = *stages, width
        self.input = nn.Conv2d((channels + given) * patch_size**2, finest, 3, padding=1)
        grid = height // reduction, breadth // reduction
        body: nn.Module = Transformer(grid, width, depth, heads, mlp_ratio, dropout)
        for features, next_features in reversed(list(zip(stages, below, strict=True))):
            body = Stage(features, next_features, width, blocks, skips, body)
        self.body = body
        last = zeroed(nn.Conv2d(finest, channels * patch_size**2, 3, padding=1))
        self.output = nn.Sequential(group_norm(finest), nn.SiLU(), last)
        initialize(self)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The prediction [B, channels, height, width].

        x_t: [B, channels + given, height, width]; t: times in [0, 1], or levels λ, [B]; labels: int64 [B], `null_label`
        for no class. ValueError for images of another size.
        """
        check_images(x_t, self.channels + self.given, self.image_size)
        condition = self.embed_time(t) + self.embed_label(labels)
        features = self.body(self.input(self._positions_of(x_t)), condition)
        return self._pixels_of(self.output(features))

    def _positions_of(self, pixels: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C·p², H/p, W/p]."""
        if self.first == "wavelet":
            return wavelet(pixels, self.patch_size.bit_length() - 1)
        return F.pixel_unshuffle(pixels, self.patch_size)

    def _pixels_of(self, positions: Tensor) -> Tensor:
        """The inverse of `_positions_of`."""
        if self.first == "wavelet":
            return inverse_wavelet(positions, self.patch_size.bit_length() - 1)
        return F.pixel_shuffle(positions, self.patch_size)


class Stage(nn.Module):
    """Residual blocks at one resolution around `below`, which works at half of it, on features of another number."""

    def __init__(
        self, features: int, features_below: int, width: int, blocks: int, skips: str, below: nn.Module
    ) -> None:
        super().__init__()
        self.skips = skips
        inputs = 2 * features if skips == "blocks" else features
        self.down = nn.ModuleList(ModulatedResidualBlock(features, features, width) for _ in range(blocks))
        self.shrink = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(features, features_below, 1))
        self.below = below
        self.enlarge = nn.Sequential(nn.Conv2d(features_below, features, 1), nn.Upsample(scale_factor=2))
        self.up = nn.ModuleList(ModulatedResidualBlock(inputs, features, width) for _ in range(blocks))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: [B, features, H, W], returned in this shape; condition: [B, width]."""
        kept = []
        for block in self.down:
            x = block(x, condition)
            if self.skips == "blocks":
                kept.append(x)
        low = self.shrink(x)
        h = self.below(low, condition)
        h = self.enlarge(h) if self.skips == "blocks" else self.enlarge(h - low) + x
        for block in self.up:
            h = block(torch.cat((h, kept.pop()), 1) if kept else h, condition)
        return h


class Transformer(RefilledBuffers):
    """The blocks of a diffusion transformer over all positions of a grid."""

    positions: Tensor

    def __init__(
        self, grid: tuple[int, int], width: int, depth: int, heads: int, mlp_ratio: float, dropout: float
    ) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.register_fresh_buffers()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout) for _ in range(depth))

    def fresh_buffers(self) -> dict[str, Tensor]:
        return {"positions": sincos_positions(*self.grid, self.width)}

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: [B, width, *grid], returned in this shape; condition: [B, width]."""
        tokens = x.flatten(2).transpose(1, 2)
        stream = ResidualStream(tokens + self.positions.to(tokens.dtype))
        for block in self.blocks:
            stream = block(stream, condition[:, None])
        return stream.total().transpose(1, 2).unflatten(2, self.grid)

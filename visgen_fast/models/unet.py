"""The U-Net of diffusion models.

Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (DDPM), 2020, appendix B: residual blocks and attention
between a convolution that halves the resolution and one that doubles it, every way down joined to the way up. Nichol
and Dhariwal, "Improved denoising diffusion probabilistic models", 2021: time and class scale and shift the
normalisations, and attention has several heads. Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis"
(ADM), 2021: attention at more resolutions. What ends a branch starts at zero: the network begins as the zero function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .layers.attention import SpatialAttention
from .layers.checks import check_images, check_sizes
from .layers.embeddings import TimeEmbedding
from .layers.labels import ClassEmbedding
from .layers.residual import ModulatedResidualBlock, group_norm, zeroed


class UNet(nn.Module):
    """A class-conditional U-Net.

    image_size: pixels, one number or (height, width); channels: of input and output; width: features at the first
    level; multipliers: features of each level over `width`, the finest first, each of half the resolution of the one
    before; depth: residual blocks of a level on the way down, one more on the way up; attention_resolutions: heights of
    the levels whose blocks end in attention (in the middle, below the coarsest level, there always is one); heads: of
    attention; classes: number of labels, to which `null_label` = classes is added as "no class"; dropout: inside the
    residual blocks; frequencies: numbers n whose sin(2ⁿπ·x_t) and cos(2ⁿπ·x_t) the network sees beside x_t (Kingma et
    al., "Variational diffusion models", 2021, appendix C, n = 7 and 8, for details as fine as a step of 8 bits);
    conditioning: what `t` is, a time or the level λ, as the objective's `conditioning` says.

    DDPM on CIFAR-10 has width 128, multipliers 1, 2, 2, 2, depth 2, attention at 16; ADM on ImageNet at 64×64 has width
    192, multipliers 1, 2, 3, 4, depth 3, attention at 32, 16 and 8, in heads of 64 features.

    ValueError where one of the sizes is below 1, the image cannot be halved once for each level but the first, a
    resolution is that of no level, heads does not divide the features that attention sees, or conditioning is unknown.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        width: int,
        multipliers: Sequence[int],
        depth: int,
        attention_resolutions: Sequence[int] = (),
        heads: int = 1,
        classes: int,
        dropout: float = 0.0,
        frequencies: Sequence[int] = (),
        conditioning: Literal["time", "log_snr"] = "time",
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        check_sizes(image_size=self.image_size, channels=channels, width=width, depth=depth, heads=heads)
        widths = [width * multiplier for multiplier in multipliers]
        attends = _attends(level_heights(self.image_size, multipliers), widths, attention_resolutions, heads)
        self.channels, self.null_label = channels, classes
        self.factor = 2 ** (len(multipliers) - 1)

        condition = 4 * width
        self.embed_time = TimeEmbedding(condition, conditioning=conditioning)
        self.embed_label = ClassEmbedding(classes, condition)
        self.waves = Waves(frequencies)
        self.input = nn.Conv2d(channels * self.waves.factor, width, 3, padding=1)

        def block(inputs: int, level: int, attention: bool) -> Block:
            return Block(inputs, widths[level], condition, heads if attention else 0, dropout)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        features, kept = width, [width]
        for level, attention in enumerate(attends):
            if level:
                self.down.append(Halve(features))
                kept.append(features)
            for _ in range(depth):
                self.down.append(block(features, level, attention))
                features = widths[level]
                kept.append(features)
        self.middle = nn.ModuleList(block(features, -1, attention) for attention in (True, False))
        for level in reversed(range(len(widths))):
            if level < len(widths) - 1:
                self.up.append(Double(features))
            for _ in range(depth + 1):
                self.up.append(block(features + kept.pop(), level, attends[level]))
                features = widths[level]
        output = zeroed(nn.Conv2d(features, channels, 3, padding=1))
        self.output = nn.Sequential(group_norm(features), nn.SiLU(), output)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """x_t: [B, channels, height, width]; t: times in [0, 1], or levels λ, [B]; labels: int64 [B].

        Returns the prediction [B, channels, height, width]. Height and width may be others than the network was made
        for, with the same factor 2^(levels − 1). ValueError for images of other channels, or another factor.
        """
        check_images(x_t, self.channels, self.image_size, self.factor)
        condition = self.embed_time(t) + self.embed_label(labels)
        x = self.input(self.waves(x_t))
        kept = [x]
        for layer in self.down:
            x = layer(x, condition)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, condition)
        for layer in self.up:
            x = layer(x if isinstance(layer, Double) else torch.cat((x, kept.pop()), 1), condition)
        return self.output(x)


def level_heights(image_size: tuple[int, int], multipliers: Sequence[int]) -> list[int]:
    """The heights of the levels, the finest first; ValueError where there are none, or the image cannot be halved."""
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers must be one positive number a level, got {tuple(multipliers)}")
    factor = 2 ** (len(multipliers) - 1)
    if any(side % factor for side in image_size):
        raise ValueError(f"2^(levels − 1) must divide image_size {image_size}, got {factor}")
    return [image_size[0] >> level for level in range(len(multipliers))]


def _attends(heights: list[int], widths: list[int], resolutions: Sequence[int], heads: int) -> list[bool]:
    """Whether the blocks of each level end in attention; ValueError where a resolution, or heads, doesn't fit."""
    if not set(resolutions) <= set(heights):
        levels = ", ".join(map(str, heights))
        raise ValueError(
            f"attention_resolutions must be heights of levels, which are {levels}, got {tuple(resolutions)}"
        )
    attends = [height in resolutions for height in heights]
    for width, seen in zip((*widths, widths[-1]), (*attends, True), strict=True):
        if seen and width % heads:
            raise ValueError(f"heads must divide the features that attention sees, {width}, got {heads}")
    return attends


class Block(nn.Module):
    """A residual block, then attention unless `heads` is 0."""

    def __init__(self, inputs: int, outputs: int, condition: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.residual = ModulatedResidualBlock(inputs, outputs, condition, dropout)
        self.attention = SpatialAttention(outputs, heads) if heads else nn.Identity()
        if isinstance(self.attention, SpatialAttention):
            zeroed(self.attention.project)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: [B, inputs, H, W]; condition: [B, condition]. Returns [B, outputs, H, W]."""
        return self.attention(self.residual(x, condition))


class Halve(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(features, features, 3, stride=2, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, features, H, W] to [B, features, H/2, W/2]."""
        return self.convolution(x)


class Double(nn.Module):
    """Each value four times, then a convolution."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(features, features, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, features, H, W] to [B, features, 2·H, 2·W]."""
        return self.layers(x)


class Waves(nn.Module):
    """x with sin(2ⁿπx) and cos(2ⁿπx) for each n: `factor` times the channels."""

    def __init__(self, frequencies: Sequence[int]) -> None:
        super().__init__()
        self.frequencies = tuple(frequencies)
        self.factor = 1 + 2 * len(self.frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, factor·C, H, W]."""
        angles = [2**n * math.pi * x for n in self.frequencies]
        return torch.cat((x, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))), 1)

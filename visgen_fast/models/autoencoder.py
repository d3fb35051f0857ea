"""Convolutional encoder and decoder between pictures and grids of latents, as in VQGAN and RQ-VAE.

Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis", 2021; Lee et al., "Autoregressive
image generation using residual quantization", 2022: residual blocks with group normalisation and SiLU, a convolution
that halves or doubles the resolution between levels, attention at the coarsest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 8


class Encoder(nn.Module):
    """Pictures [B, channels, H, W] to latents [B, dimensions, H/f, W/f], f = `reduction(widths, patch_size)`.

    widths: features at each level, the finest first; each level has half the resolution of the one before.
    patch_size: side of the squares of pixels that the first convolution turns into one position each.
    blocks: residual blocks at each level; attention: one head of attention at the coarsest level; dropout: in blocks.

    ValueError where a size is below 1 or widths is empty; pictures whose sides f does not divide are refused likewise.
    """

    def __init__(
        self,
        *,
        channels: int,
        widths: Sequence[int],
        dimensions: int,
        patch_size: int = 1,
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(channels=channels, widths=widths, dimensions=dimensions, patch_size=patch_size, blocks=blocks)
        self.channels, self.reduction = channels, reduction(widths, patch_size)
        if patch_size == 1:
            layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        else:
            layers = [nn.Conv2d(channels, widths[0], patch_size, stride=patch_size)]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            layers += [ResidualBlock(width, width, dropout) for _ in range(blocks)]
        layers += _bottom(widths[-1], attention, dropout)
        layers += [_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], dimensions, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, dimensions, H/f, W/f]."""
        if (
            pictures.dim() != 4
            or pictures.shape[1] != self.channels
            or any(n % self.reduction for n in pictures.shape[2:])
        ):
            raise ValueError(
                f"pictures must be [B, {self.channels}, H, W] with sides that {self.reduction} divides, "
                f"got {list(pictures.shape)}"
            )
        return self.layers(pictures)


class Decoder(nn.Module):
    """Latents [B, dimensions, h, w] to pictures [B, channels, h·f, w·f]: the mirror image of `Encoder`."""

    def __init__(
        self,
        *,
        channels: int,
        widths: Sequence[int],
        dimensions: int,
        patch_size: int = 1,
        blocks: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check(channels=channels, widths=widths, dimensions=dimensions, patch_size=patch_size, blocks=blocks)
        layers: list[nn.Module] = [nn.Conv2d(dimensions, widths[-1], 3, padding=1)]
        layers += _bottom(widths[-1], attention, dropout)
        for level in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[level], widths[level], dropout) for _ in range(blocks)]
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level], widths[level - 1], 3, padding=1)]
        layers += [_norm(widths[0]), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Conv2d(widths[0], channels * patch_size**2, 3, padding=1)
        self.to_pixels = nn.PixelShuffle(patch_size)

    @property
    def last_layer(self) -> Tensor:
        """The weight where the gradients of several losses of the picture are compared."""
        return self.output.weight

    def forward(self, latents: Tensor) -> Tensor:
        """[B, dimensions, h, w] to [B, channels, h·f, w·f]."""
        return self.to_pixels(self.output(self.layers(latents)))


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), x through a 1×1 convolution where the number of features changes."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)),
            *(_norm(outputs), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(outputs, outputs, 3, padding=1)),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        return self.shortcut(x) + self.branch(x)


class SpatialAttention(nn.Module):
    """x plus self-attention of one head over all positions of its normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] to the same shape."""
        query, key, value = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.project(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


def reduction(widths: Sequence[int], patch_size: int = 1) -> int:
    """How many pixels a side of the picture there are to one latent."""
    return patch_size * 2 ** (len(widths) - 1)


def _bottom(width: int, attention: bool, dropout: float) -> list[nn.Module]:
    """What encoder and decoder do at the coarsest resolution."""
    if not attention:
        return [ResidualBlock(width, width, dropout)]
    return [ResidualBlock(width, width, dropout), SpatialAttention(width), ResidualBlock(width, width, dropout)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_GROUPS, width), width)


def _check(*, widths: Sequence[int], **sizes: int) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be one positive number a level, got {tuple(widths)}")
    for name, value in sizes.items():
        least = 0 if name == "blocks" else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")

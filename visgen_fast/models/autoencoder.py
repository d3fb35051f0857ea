"""Convolutional encoder and decoder between images and grids of latents, as in VQGAN and RQ-VAE.

Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis", 2021; Lee et al., "Autoregressive
image generation using residual quantization", 2022: residual blocks with group normalisation and SiLU, a convolution
that halves or doubles the resolution between levels, attention at the coarsest one. Shortcuts beside that convolution
are those of Chen et al., "Deep compression autoencoder for efficient high-resolution diffusion models", 2025.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .layers.attention import SpatialAttention
from .layers.residual import ResidualBlock, group_norm
from .layers.shortcuts import DoublingShortcut, HalvingShortcut


class Encoder(nn.Module):
    """Images [B, channels, H, W] to latents [B, dimensions, H/f, W/f], f = `reduction(widths, patch_size)`.

    widths: features at each level, the finest first; each level has half the resolution of the one before.
    patch_size: side of the squares of pixels that the first convolution turns into one position each.
    blocks: residual blocks at each level; attention: one head of attention at the coarsest level; dropout: in blocks.
    shortcuts: between levels the image passes beside the convolution too, pixels moved into features and averaged.

    ValueError where a size is below 1 or widths is empty, and where a level has no whole share of four times the
    features of the one before, which shortcuts need; images whose sides f does not divide are refused likewise.
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
        shortcuts: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "dimensions": dimensions, "patch_size": patch_size, "blocks": blocks}
        check_levels(widths=widths, shortcuts=shortcuts, **sizes)
        self.channels, self.reduction = channels, reduction(widths, patch_size)
        if patch_size == 1:
            layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        else:
            layers = [nn.Conv2d(channels, widths[0], patch_size, stride=patch_size)]
        for level, width in enumerate(widths):
            if level:
                half = nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1)
                layers.append(HalvingShortcut(half) if shortcuts else half)
            layers += [ResidualBlock(width, width, dropout) for _ in range(blocks)]
        layers += _bottom(widths[-1], attention, dropout)
        layers += [group_norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], dimensions, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, dimensions, H/f, W/f]."""
        if images.dim() != 4 or images.shape[1] != self.channels or any(n % self.reduction for n in images.shape[2:]):
            raise ValueError(
                f"images must be [B, {self.channels}, H, W] with sides that {self.reduction} divides, "
                f"got {list(images.shape)}"
            )
        return self.layers(images)


class Decoder(nn.Module):
    """Latents [B, dimensions, h, w] to images [B, channels, h·f, w·f]: the mirror image of `Encoder`."""

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
        shortcuts: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "dimensions": dimensions, "patch_size": patch_size, "blocks": blocks}
        check_levels(widths=widths, shortcuts=shortcuts, **sizes)
        layers: list[nn.Module] = [nn.Conv2d(dimensions, widths[-1], 3, padding=1)]
        layers += _bottom(widths[-1], attention, dropout)
        for level in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[level], widths[level], dropout) for _ in range(blocks)]
            if level:
                twice = [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level], widths[level - 1], 3, padding=1)]
                layers += [DoublingShortcut(nn.Sequential(*twice), widths[level - 1])] if shortcuts else twice
        layers += [group_norm(widths[0]), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Conv2d(widths[0], channels * patch_size**2, 3, padding=1)
        self.to_pixels = nn.PixelShuffle(patch_size)

    @property
    def last_layer(self) -> Tensor:
        """The weight where the gradients of several losses of the image are compared."""
        return self.output.weight

    def forward(self, latents: Tensor) -> Tensor:
        """[B, dimensions, h, w] to [B, channels, h·f, w·f]."""
        return self.to_pixels(self.output(self.layers(latents)))


def reduction(widths: Sequence[int], patch_size: int = 1) -> int:
    """How many pixels a side of the image there are to one latent."""
    return patch_size * 2 ** (len(widths) - 1)


def _bottom(width: int, attention: bool, dropout: float) -> list[nn.Module]:
    """What encoder and decoder do at the coarsest resolution."""
    if not attention:
        return [ResidualBlock(width, width, dropout)]
    return [ResidualBlock(width, width, dropout), SpatialAttention(width), ResidualBlock(width, width, dropout)]


def check_levels(*, widths: Sequence[int], shortcuts: bool, **sizes: int) -> None:
    """ValueError where a size is below 1, blocks below 0, or where shortcuts do not fit the widths."""
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be one positive number a level, got {tuple(widths)}")
    for name, value in sizes.items():
        least = 0 if name == "blocks" else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if shortcuts and any(4 * fine % coarse for fine, coarse in zip(widths, widths[1:], strict=False)):
        raise ValueError(f"with shortcuts each of widths must divide four times the one before, got {tuple(widths)}")

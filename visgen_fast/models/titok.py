"""The networks of TiTok: Yu et al., "An image is worth 32 tokens for reconstruction and generation", 2024.

An image becomes a short sequence of latent tokens that stand for no place in it. The encoder is a transformer over
the image's patches and a few learned tokens, of which only the latter are kept; the decoder is a transformer over
these and one mask token for each patch, of which only the latter are kept. The paper's second stage decodes to pixels
through a pretrained VQGAN; here, as in the authors' later TA-TiTok (Kim et al., 2025), the patches are pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers.attention import Attention
from .layers.patches import patchify, unpatchify


class TiTokEncoder(nn.Module):
    """Images [B, channels, image_size, image_size] to latent tokens [B, tokens, dimensions].

    image_size: pixels along a side; patch_size: pixels along the side of a patch; width, depth, heads: of the
    transformer. The paper has patches of 16 pixels and (width, depth, heads) of (512, 8, 8), (768, 12, 12) or
    (1024, 24, 16) for the sizes S, B and L.

    ValueError where one of the sizes is below 1, patch_size does not divide image_size, or heads does not divide width.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        tokens: int,
        dimensions: int,
    ) -> None:
        super().__init__()
        patches = _patches(image_size, patch_size)
        _check(channels=channels, width=width, depth=depth, heads=heads, tokens=tokens, dimensions=dimensions)
        self.patch_size, self.tokens = patch_size, tokens
        self.embed_patch = nn.Linear(channels * patch_size**2, width)
        self.patch_positions = _learned(patches, width)
        # A token of TiTok and its position are added up wherever they occur: one parameter serves as both.
        self.latent_tokens = _learned(tokens, width)
        self.transformer = Transformer(width, depth, heads)
        self.output = nn.Linear(width, dimensions)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed_patch(patchify(images, self.patch_size)) + self.patch_positions
        latents = self.latent_tokens.expand(len(images), -1, -1)
        return self.output(self.transformer(torch.cat((patches, latents), 1))[:, -self.tokens :])


class TiTokDecoder(nn.Module):
    """Latent tokens [B, tokens, dimensions] to images [B, channels, image_size, image_size].

    The arguments are those of `TiTokEncoder`. A 3×3 convolution of the pixels smooths the seams of the patches.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        tokens: int,
        dimensions: int,
    ) -> None:
        super().__init__()
        self.patches = _patches(image_size, patch_size)
        _check(channels=channels, width=width, depth=depth, heads=heads, tokens=tokens, dimensions=dimensions)
        self.image_size, self.patch_size = (image_size, image_size), patch_size
        self.embed_token = nn.Linear(dimensions, width)
        self.token_positions = _learned(tokens, width)
        # The mask token is the same everywhere; with its position it is one parameter.
        self.mask_tokens = _learned(self.patches, width)
        self.transformer = Transformer(width, depth, heads)
        self.output = nn.Linear(width, channels * patch_size**2)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)
        _initialize(self)
        nn.init.dirac_(self.smooth.weight)  # begins as the identity

    def forward(self, latents: Tensor) -> Tensor:
        tokens = self.embed_token(latents) + self.token_positions
        masks = self.mask_tokens.expand(len(latents), -1, -1)
        patches = self.output(self.transformer(torch.cat((masks, tokens), 1))[:, : self.patches])
        return self.smooth(unpatchify(patches, self.patch_size, self.image_size))


class Transformer(nn.Module):
    """`depth` blocks of attention and MLP between two normalisations: [B, N, width] to the same shape."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        blocks = [Block(width, heads) for _ in range(depth)]
        self.layers = nn.Sequential(nn.LayerNorm(width), *blocks, nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.transform = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return x + self.transform(x)


def _patches(image_size: int, patch_size: int) -> int:
    if image_size < 1 or patch_size < 1 or image_size % patch_size:
        raise ValueError(f"patch_size must be at least 1 and divide image_size {image_size}, got {patch_size}")
    return (image_size // patch_size) ** 2


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"heads must divide width {sizes['width']}, got {sizes['heads']}")


def _learned(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(count, width) / width**0.5)


def _initialize(network: nn.Module) -> None:
    """Xavier's initial weights, no biases: they suit any width, and tokens differ by image from the first step."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

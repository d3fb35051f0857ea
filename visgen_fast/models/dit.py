"""DiT, the diffusion transformer of Peebles and Xie, "Scalable diffusion models with transformers", 2023.

A picture becomes a sequence of patches; a plain transformer works on it. Time and class enter each block as a shift, a
scale and a gate of its normalised activations (AdaLN-Zero). Gates and output start at zero: the network begins as the
zero function with an identity inside.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DiT(nn.Module):
    """A class-conditional diffusion transformer.

    image_size: pixels, one number or (height, width); channels: of input and output; patch_size: pixels along the side
    of a patch; width, depth, heads: of the transformer; classes: number of labels, to which `null_label` = classes is
    added as "no class"; mlp_ratio: hidden width of a block's MLP over `width`; dropout: on the output of each branch.

    ValueError where one of the sizes is below 1, patch_size does not divide the picture, heads does not divide width,
    or width is no multiple of 4.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_size = height, breadth
        sizes = {"channels": channels, "patch_size": patch_size, "width": width, "depth": depth, "heads": heads}
        for name, least in {"image_size": min(self.image_size), **sizes}.items():
            if least < 1:
                raise ValueError(f"{name} must be at least 1, got {least}")
        if any(side % patch_size for side in self.image_size):
            raise ValueError(f"patch_size must divide image_size {self.image_size}, got {patch_size}")
        if width % heads:
            raise ValueError(f"heads must divide width {width}, got {heads}")
        if width % 4:
            raise ValueError(f"width must be a multiple of 4 (sine and cosine of two coordinates), got {width}")
        self.channels, self.patch_size, self.null_label = channels, patch_size, classes

        positions = sincos_positions(height // patch_size, breadth // patch_size, width)
        self.register_buffer("positions", positions, persistent=False)
        self.embed_patch = nn.Linear(channels * patch_size**2, width)
        self.embed_time = TimeEmbedding(width)
        self.embed_label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.output = Output(width, channels * patch_size**2)
        self.initialize()

    def initialize(self) -> None:
        """The paper's initial weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedding in (self.embed_label, self.embed_time.input, self.embed_time.output):
            nn.init.normal_(embedding.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.output.linear.weight)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """x_t: [B, channels, height, width]; t: times in [0, 1], [B]; labels: int64 [B], `null_label` for no class.

        Returns the prediction [B, channels, height, width]. ValueError for pictures of another size.
        """
        if x_t.shape[1:] != (self.channels, *self.image_size):
            raise ValueError(
                f"x_t must have shape [B, {self.channels}, {self.image_size[0]}, {self.image_size[1]}], "
                f"got {list(x_t.shape)}"
            )
        condition = (self.embed_time(t) + self.embed_label(labels))[:, None]
        tokens = self.embed_patch(patchify(x_t, self.patch_size)) + self.positions
        for block in self.blocks:
            tokens = block(tokens, condition)
        return unpatchify(self.output(tokens, condition), self.patch_size, self.image_size)


class Block(nn.Module):
    """Attention and MLP, each normalised, shifted and scaled before and gated after by the condition."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)
        self.modulation = Modulation(width, 6)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: [B, N, width]; condition: [B, 1, width]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)
        x = x + gate_1 * self.dropout(self.attention(modulate(self.norm(x), shift_1, scale_1)))
        return x + gate_2 * self.dropout(self.mlp(modulate(self.norm(x), shift_2, scale_2)))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] to the same shape."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.project(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Output(nn.Module):
    """Normalise, modulate and map tokens to the pixels of their patch."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = Modulation(width, 2)
        self.linear = nn.Linear(width, features)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, N, width] to [B, N, features]."""
        shift, scale = self.modulation(condition)
        return self.linear(modulate(self.norm(x), shift, scale))


class Modulation(nn.Module):
    """Shifts, scales and gates as a linear function of the condition."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """[..., width] to `parts` tensors of that shape."""
        return self.linear(F.silu(condition)).chunk(self.parts, dim=-1)


class TimeEmbedding(nn.Module):
    """A time in [0, 1] as a vector: cosines and sines of 1000·t at frequencies from 1 down to 1/10000, then an MLP."""

    def __init__(self, width: int, frequencies: int = 128) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.input = nn.Linear(2 * frequencies, width)
        self.output = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """[B] to [B, width]."""
        # In float32 even for a bfloat16 network, whose 8 bits would fold the fast frequencies onto each other.
        exponents = torch.arange(self.frequencies, dtype=torch.float32, device=t.device) / self.frequencies
        angles = 1000 * t.float()[:, None] * 10000**-exponents
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.input.weight.dtype)
        return self.output(F.silu(self.input(waves)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x·(1 + scale) + shift."""
    return x * (1 + scale) + shift


def sincos_positions(height: int, width: int, features: int) -> Tensor:
    """Fixed positions of a height × width grid, row by row: float32 [height·width, features].

    A quarter of the features each for sine and cosine of the row and of the column, at frequencies from 1 down to
    1/10000 (Vaswani et al., 2017, in two dimensions).
    """
    frequencies = 10000 ** -(torch.arange(features // 4, dtype=torch.float64) / (features // 4))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """[B, C, H, W] to tokens [B, (H/p)·(W/p), p·p·C], row by row."""
    x = x.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [B, C, H/p, p, W/p, p]
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch_size: int, image_size: tuple[int, int]) -> Tensor:
    """The inverse of `patchify` for pictures of `image_size` (height, width)."""
    grid = tokens.unflatten(1, (image_size[0] // patch_size, -1)).unflatten(3, (patch_size, patch_size, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

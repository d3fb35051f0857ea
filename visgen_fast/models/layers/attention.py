"""Attention over tokens, to other tokens, and over the positions of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nn.modulated import ModulatedNorm
from .residual import group_norm
from .rotary import rotate


class HeadNorm(nn.Module):
    """What queries, or keys, go through before they meet: an RMS norm of each head's features, and rotary positions.

    features: of a head; normalized: whether there is the norm (Dehghani et al., "Scaling vision transformers to 22
    billion parameters", 2023), with a weight that is learned.
    """

    def __init__(self, features: int, normalized: bool) -> None:
        super().__init__()
        self.norm = ModulatedNorm(features, norm="rms", affine=True) if normalized else None

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """[B, heads, N, features] to the same shape; angles: as of `rotary_angles`."""
        x = x if self.norm is None else self.norm(x)
        return x if angles is None else rotate(x, angles)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; normalized: as of `HeadNorm`.

    causal: whether tokens of frames, [B, T, N, width], attend to those of their own and earlier frames alone.
    """

    def __init__(self, width: int, heads: int, *, normalized: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.queries, self.keys = (HeadNorm(width // heads, normalized) for _ in range(2))
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """[B, N, width], or [B, T, N, width] for frames, to the same shape; angles: of rotary positions."""
        query, key, value = split(self.qkv(x).flatten(1, -2), 3, self.heads)
        mask = _earlier_frames(x) if self.causal else None
        mixed = F.scaled_dot_product_attention(self.queries(query, angles), self.keys(key, angles), value, mask)
        return self.project(joined(mixed)).view_as(x)


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to others of `context` features, by default as many; normalized: of `HeadNorm`."""

    def __init__(self, width: int, heads: int, *, normalized: bool = False, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(context or width, 2 * width)
        self.queries, self.keys = (HeadNorm(width // heads, normalized) for _ in range(2))
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, …, N, width], returned in this shape; context [B, L, …]; mask bool [B, L], True where one counts."""
        (query,) = split(self.query(x).flatten(1, -2), 1, self.heads)
        key, value = split(self.key_value(context), 2, self.heads)
        counts = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(self.queries(query), self.keys(key), value, attn_mask=counts)
        return self.project(joined(mixed)).view_as(x)


def _earlier_frames(x: Tensor) -> Tensor:
    """Which tokens of [B, T, N, width] each one sees, those of its own and of earlier frames: bool [T·N, T·N]."""
    frame = torch.arange(x.shape[1], device=x.device).repeat_interleave(x.shape[2])
    return frame[:, None] >= frame


def split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, parts·width] to so many parts [B, heads, N, width/heads]."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def joined(mixed: Tensor) -> Tensor:
    """What heads [B, heads, N, width/heads] say, as [B, N, width]."""
    return mixed.transpose(1, 2).flatten(2)


class SpatialAttention(nn.Module):
    """x plus multi-head self-attention over all positions of its normalisation."""

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] to the same shape."""
        query, key, value = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT.unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)  # [B, heads, H·W, width/heads]
        return x + self.project(mixed.mT.flatten(1, 2).unflatten(2, x.shape[2:]))

"""A transformer that sees some vectors of a grid and draws the others, each by a small flow: MAR.

Li et al., "Autoregressive image generation without vector quantization", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.conditions import AnyCondition
from .layers.checks import check_sizes
from .layers.code_transformer import Transformer
from .layers.embeddings import TimeEmbedding
from .layers.labels import LabelEmbedding
from .layers.modulation import Modulation, modulate


class MAR(nn.Module):
    """Vectors [N, D] of a grid, of which some are hidden: `features` says of each place what `flow` draws it from.

    A slot holds its vector, or a mask, and its place and the label; it sees all slots. The flow is an MLP whose
    residual blocks are modulated by the time and by what the transformer says of the place.

    grid: rows and columns. dimensions: D. width, depth, heads, dropout: of the transformer. flow_width, flow_depth: of
    the MLP. classes: as of `SequenceModel`.

    ValueError where a size is below 1, or heads does not divide width.
    """

    def __init__(
        self,
        grid: Sequence[int],
        dimensions: int,
        *,
        width: int,
        depth: int,
        heads: int,
        flow_width: int = 256,
        flow_depth: int = 3,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(grid=grid, dimensions=dimensions)
        self.grid, self.dimensions, self.length = tuple(grid), dimensions, grid[0] * grid[1]
        together = torch.zeros(self.length, dtype=torch.int64, device="cpu")
        self.transformer = Transformer(together, width=width, depth=depth, heads=heads, dropout=dropout)
        self.embed_label = LabelEmbedding(classes, width)
        self.null_label = self.embed_label.null_label
        self.embed = nn.Linear(dimensions, width)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.02 * torch.randn(self.length, width))
        self.norm = nn.LayerNorm(width)
        self.flow = FlowHead(dimensions, width, flow_width, flow_depth)

    def features(self, vectors: Tensor, hidden: Tensor, condition: AnyCondition = None) -> Tensor:
        """[B, N, width] of vectors [B, N, D], where `hidden`, bool [B, N], says which are not seen."""
        slots = torch.where(hidden[..., None], self.mask, self.embed(vectors)) + self.places
        label = self.embed_label(condition)
        return self.norm(self.transformer(slots if label is None else slots + label[:, None]))


class FlowHead(nn.Module):
    """Predicts of noised vectors [M, D], at times [M], what their places' features [M, width] condition."""

    def __init__(self, dimensions: int, width: int, flow_width: int, depth: int) -> None:
        super().__init__()
        check_sizes(flow_width=flow_width, flow_depth=depth)
        self.input, self.output = nn.Linear(dimensions, flow_width), nn.Linear(flow_width, dimensions)
        self.time, self.place = TimeEmbedding(flow_width), nn.Linear(width, flow_width)
        self.blocks = nn.ModuleList(_Block(flow_width) for _ in range(depth))
        self.modulation = Modulation(flow_width, 2)
        for last in (self.output, self.modulation.linear):  # so that it begins by predicting 0
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, t: Tensor, features: Tensor) -> Tensor:
        condition = self.time(t) + self.place(features)
        x = self.input(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.output(modulate(F.layer_norm(x, x.shape[-1:]), *self.modulation(condition)))


class _Block(nn.Module):
    """x + gate·MLP(norm(x)), shifted, scaled and gated by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = Modulation(width, 3)
        nn.init.zeros_(self.modulation.linear.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition)
        return x + gate * self.mlp(modulate(F.layer_norm(x, x.shape[-1:]), shift, scale))

"""The block of a diffusion transformer (Peebles and Xie, "Scalable diffusion models with transformers", 2023)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ...nn.modulated import FeedForward, GatedResidualNorm, ResidualStream
from .attention import Attention
from .modulation import Modulation


class Block(nn.Module):
    """Attention and MLP, each normalised, shifted and scaled before and gated after by the condition.

    The sum that ends a block is left to the norm that comes next, of the next block or of the output.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm = GatedResidualNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = FeedForward(width, int(width * mlp_ratio))
        self.dropout = nn.Dropout(dropout)
        self.modulation = Modulation(width, 6)

    def forward(self, stream: ResidualStream, condition: Tensor) -> ResidualStream:
        """stream: [B, N, width]; condition: [B, 1, width]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)
        x, h = self.norm(*stream, scale_1, shift_1)
        x, h = self.norm(x, self.dropout(self.attention(h)), gate_1, scale_2, shift_2)
        return ResidualStream(x, self.dropout(self.mlp(h)), gate_2)


def initialize(network: nn.Module, embeddings: Iterable[nn.Linear | nn.Embedding] = ()) -> None:
    """Initial weights as in DiT: Xavier's in linear layers, small ones in `embeddings`, no modulation."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for embedding in embeddings:
        nn.init.normal_(embedding.weight, std=0.02)
    for module in network.modules():
        if isinstance(module, Modulation):
            nn.init.zeros_(module.linear.weight)

"""The block of a diffusion transformer (Peebles and Xie, "Scalable diffusion models with transformers", 2023)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .attention import Attention
from .modulation import Modulation, modulate


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

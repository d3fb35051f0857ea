"""The block of a diffusion transformer (Peebles and Xie, "Scalable diffusion models with transformers", 2023)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ...nn.modulated import GATED_ACTIVATIONS, FeedForward, GatedResidualNorm, ResidualStream
from .attention import Attention, CrossAttention
from .modulation import Modulation


class Block(nn.Module):
    """Attention and MLP, each normalised, shifted and scaled before and gated after by the condition.

    The sum that ends a block is left to the norm that comes next, of the next block or of the output.

    mlp: its activation, as of `FeedForward`; normalized, causal: as of `Attention`; cross: whether the tokens attend to
    those of a condition too, between the two, neither modulated nor gated (Chen et al., "PixArt-α", 2023).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        *,
        mlp: str = "gelu_tanh",
        normalized: bool = False,
        cross: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm = GatedResidualNorm(width)
        self.attention = Attention(width, heads, normalized=normalized, causal=causal)
        self.cross = CrossAttention(width, heads, normalized=normalized) if cross else None
        self.mlp = feed_forward(width, mlp_ratio, mlp)
        self.dropout = nn.Dropout(dropout)
        self.modulation = Modulation(width, 6)

    def forward(
        self,
        stream: ResidualStream,
        condition: Tensor,
        angles: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ResidualStream:
        """stream: [B, N, width]; condition: [B, 1, width]; both with T behind B for frames.

        angles: of rotary positions; context, mask: a condition's tokens [B, L, width], and which count,
        bool [B, L].
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)
        x, h = self.norm(*stream, scale_1, shift_1)
        branch = self.dropout(self.attention(h, angles))
        if self.cross is not None:
            x, h = self.norm(x, branch, gate_1)
            branch, gate_1 = self.dropout(self.cross(h, context, mask)), None
        x, h = self.norm(x, branch, gate_1, scale_2, shift_2)
        return ResidualStream(x, self.dropout(self.mlp(h)), gate_2)


def feed_forward(width: int, ratio: float, kind: str) -> FeedForward:
    """The MLP of a block with `ratio` times its features inside; a gated one has two thirds, for as many weights."""
    return FeedForward(width, max(1, int(width * ratio * (2 / 3 if kind in GATED_ACTIVATIONS else 1))), kind)


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
        elif isinstance(module, CrossAttention):
            nn.init.zeros_(module.project.weight)

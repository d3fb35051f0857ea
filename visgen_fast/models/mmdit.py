"""MM-DiT: a diffusion transformer of two streams, the image's patches and a condition's tokens.

Each stream has weights of its own; they meet in attention alone, over the tokens of both (Esser et al., "Scaling
rectified flow transformers for high-resolution image synthesis", 2024, section 4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.conditions import AnyCondition
from ..nn.modulated import GatedResidualNorm, ResidualStream
from ..nn.recompute import run_recomputing
from .dit import DiT, State
from .layers.attention import HeadNorm, joined, split
from .layers.modulation import Modulation
from .layers.transformer import feed_forward


class MMDiT(DiT):
    """A `DiT` whose blocks are `JointBlock`; its arguments are those of `DiT`, with pooled and tokens.

    Queries and keys are normalised, unless `normalized` says otherwise. ValueError as of `DiT`, and without tokens.
    """

    def __init__(self, *, pooled: int, tokens: int, normalized: bool = True, **options: Any) -> None:
        super().__init__(pooled=pooled, tokens=tokens, normalized=normalized, **options)

    def make_blocks(self, depth: int, sizes: tuple[Any, ...], options: dict[str, Any]) -> nn.ModuleList:
        if self.frames is not None:
            raise ValueError(f"image_size must be (height, width), of images, for an MMDiT, got {self.image_size}")
        return nn.ModuleList(JointBlock(*sizes, **options, last=place == depth - 1) for place in range(depth))

    def begin(
        self, stream: ResidualStream, condition: Tensor, labels: AnyCondition, angles: Tensor | None
    ) -> tuple[State, tuple[Any, ...]]:
        assert self.embed_tokens is not None
        tokens, mask = self.embed_tokens(labels)
        return (stream, ResidualStream(tokens)), (condition, mask, angles)

    def advance(self, block: nn.Module, state: State, given: tuple[Any, ...]) -> State:
        return run_recomputing(self.recompute, block, *state, *given)


class JointBlock(nn.Module):
    """A block of two streams, whose attention is over the tokens of both; no patch and no token attends to padding.

    last: whether nothing reads the condition's tokens after this block, so that they only lend keys and values.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        *,
        mlp: str = "gelu_tanh",
        normalized: bool = True,
        last: bool = False,
    ) -> None:
        super().__init__()
        sizes = width, heads, mlp_ratio, dropout, mlp, normalized
        self.image, self.text = Half(*sizes), Half(*sizes, ends=last)

    def forward(
        self,
        image: ResidualStream,
        text: ResidualStream,
        condition: Tensor,
        mask: Tensor,
        angles: Tensor | None = None,
    ) -> tuple[ResidualStream, ResidualStream]:
        """image [B, N, width], text [B, L, width]; condition [B, 1, width]; mask bool [B, L], True where one counts.

        angles: of the patches' rotary positions; tokens of a condition have none.
        """
        x, query, key, value, rest = self.image.enter(image, condition, angles)
        y, text_query, text_key, text_value, text_rest = self.text.enter(text, condition, None)
        length = text_query.shape[2]
        mixed = F.scaled_dot_product_attention(
            torch.cat((text_query, query), 2),
            torch.cat((text_key, key), 2),
            torch.cat((text_value, value), 2),
            attn_mask=F.pad(mask, (0, key.shape[2]), value=True)[:, None, None],
        )
        return self.image.leave(x, mixed[:, :, length:], rest), self.text.leave(y, mixed[:, :, :length], text_rest)


class Half(nn.Module):
    """One stream's half of a `JointBlock`: what stands before the attention, and what after it.

    ends: whether nothing reads the stream after the attention. Then it asks nothing, and nothing stands after it.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, dropout: float, mlp: str, normalized: bool, ends: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.ends = heads, ends
        self.norm = GatedResidualNorm(width)
        self.modulation = Modulation(width, 2 if ends else 6)
        self.key_value, self.keys = nn.Linear(width, 2 * width), HeadNorm(width // heads, normalized)
        if not ends:
            self.query, self.queries = nn.Linear(width, width), HeadNorm(width // heads, normalized)
            self.project = nn.Linear(width, width)
            self.mlp = feed_forward(width, mlp_ratio, mlp)
            self.dropout = nn.Dropout(dropout)

    def enter(self, stream: ResidualStream, condition: Tensor, angles: Tensor | None) -> tuple[Any, ...]:
        """The sum of the stream; queries, keys and values of its tokens; the rest of its modulation."""
        shift, scale, *rest = self.modulation(condition)
        x, h = self.norm(*stream, scale, shift)
        key, value = split(self.key_value(h), 2, self.heads)
        query = value[:, :, :0] if self.ends else self.queries(split(self.query(h), 1, self.heads)[0], angles)
        return x, query, self.keys(key, angles), value, rest

    def leave(self, x: Tensor, mixed: Tensor, rest: list[Tensor]) -> ResidualStream:
        """The stream after attention and MLP; x [B, N, width], mixed [B, heads, N, width/heads]."""
        if self.ends:
            return ResidualStream(x)
        gate_1, shift, scale, gate_2 = rest
        x, h = self.norm(x, self.dropout(self.project(joined(mixed))), gate_1, scale, shift)
        return ResidualStream(x, self.dropout(self.mlp(h)), gate_2)

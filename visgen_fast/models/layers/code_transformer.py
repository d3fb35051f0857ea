"""The transformer of models of codes: slots that see those of no later step, all at once or step by step.

A slot of step t may hold codes of earlier steps only, and sees the slots of steps up to t; so what it gives may
predict the codes of step t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...nn.prepacked import Prepacked, linear
from ...nn.state import RefilledBuffers
from .checks import check_sizes


@dataclass
class Cache:
    """Keys and values of the slots so far: [depth, 2, B, heads, N, width/heads], of which `length` slots are filled.

    product: of a linear layer and the next slots.
    """

    memory: Tensor
    length: int = 0
    product: Prepacked = field(default_factory=Prepacked)


class Transformer(RefilledBuffers):
    """`depth` blocks of attention and MLP, each after a normalisation, over slots [B, N, width].

    steps: of the N slots, int64 [N], not falling.

    ValueError where a size is below 1, heads does not divide width, or steps fall.
    """

    blocks: Sequence[Block]
    visible: Tensor

    def __init__(self, steps: Tensor, *, width: int, depth: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads)
        if width % heads:
            raise ValueError(f"heads must divide width {width}, got {heads}")
        steps = steps.cpu()
        rises = steps.diff()
        if bool((rises < 0).any()):
            raise ValueError("the steps of slots must not fall")
        self.steps, self.width, self.heads = steps, width, heads
        self.one_by_one, self.at_once = bool((rises > 0).all()), not bool(rises.any())
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(width, heads, dropout) for _ in range(depth)))
        self.register_fresh_buffers()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5 * module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for block in self.blocks:  # so that the sum over all blocks begins no larger than its terms
            for last in (block.project, block.shrink):
                last.weight.data.mul_((2 * depth) ** -0.5)

    def fresh_buffers(self) -> dict[str, Tensor]:
        """Which slots [key] a slot [query] sees, where it is neither all nor those up to it."""
        plain = self.one_by_one or self.at_once
        return {"visible": torch.zeros(0) if plain else self.steps[None, :] <= self.steps[:, None]}

    def forward(self, slots: Tensor) -> Tensor:
        """[B, N, width] to the same shape."""
        seen = None if self.one_by_one or self.at_once else self.visible
        for block in self.blocks:
            slots = block(slots, None, seen, self.one_by_one and not self.at_once)
        return slots

    def begin(self, batch: int, like: Tensor) -> Cache:
        """An empty cache for all slots of `batch` samples, on the device and of the type of `like`."""
        size = (len(self.blocks), 2, batch, self.heads, len(self.steps), self.width // self.heads)
        return Cache(like.new_empty(size))

    def advance(self, cache: Cache, slots: Tensor) -> Tensor:
        """The next slots [B, n, width], all of one step: what `forward` gives for them, from the cache, which grows."""
        first, cache.length = cache.length, cache.length + slots.shape[1]
        for block, memory in zip(self.blocks, cache.memory, strict=True):
            slots = block(slots, (memory[..., : cache.length, :], first), product=cache.product)
        return slots


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        cache: tuple[Tensor, int] | None = None,
        seen: Tensor | None = None,
        causal: bool = False,
        product: Callable[..., Tensor] = linear,
    ) -> Tensor:
        """x [B, n, width]; cache: keys and values [2, B, heads, ≥ n, d], with the place from which on x's belong.

        product: of a linear layer and its input, as of `linear`.
        """
        qkv = product(self.qkv, self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv
        if cache is not None:
            memory, first = cache
            memory[:, :, :, first:] = qkv[1:]
            key, value = memory
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
        x = x + self.dropout(product(self.project, mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(product(self.shrink, product(self.widen, self.norm_2(x), gelu=True)))

"""What all quantizers have in common, and all that tokenizers know of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .collective import sum_over_ranks
from .quantized import Quantized
from .side_effects import may_have_side_effects
from .state import Float32State, Freezable, RefilledBuffers
from .usage import count_codes, perplexity, share_used

_MOST_COUNTED = 2**20


class Quantizer(Freezable, Float32State, RefilledBuffers, ABC):
    """Replaces vectors [..., D] by codes [..., Q] and the codes by vectors again.

    dimensions: D; depth: Q, how many codes a vector has; size: K, how many values a code has.

    Every forward counts its codes in the buffer `code_counts`, without a synchronisation and not saved in state dicts:
    those of all ranks where the codebook learns from all ranks' codes, else this rank's. Beyond 2²⁰ codes nothing is
    counted, nor under the transforms of `torch.func`; loading a state starts the count again.

    Parameters and buffers stay float32 where the module is cast to 16 bits; `double()` makes them float64.

    `requires_grad_(False)` freezes the codebooks, in training mode too, when it is called on the quantizer or on its
    tokenizer. Called on another module around them, it reaches only the codebooks that learn by gradient.

    Under activation checkpointing with use_reentrant=False a quantizer learns and counts once, and gradients are those
    without checkpointing; where that cannot be, RuntimeError. With `torch.func`'s transforms and in the replicas of
    `nn.DataParallel` it can be evaluated, but learns nothing: RuntimeError.
    """

    code_counts: Tensor

    def __init__(self, dimensions: int, depth: int, size: int) -> None:
        super().__init__()
        for name, value in {"dimensions": dimensions, "depth": depth, "size": size}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.dimensions, self.depth, self.size = dimensions, depth, size
        self.register_fresh_buffers()

    def fresh_buffers(self) -> dict[str, Tensor]:
        counted = self.size if self.size <= _MOST_COUNTED else 0
        return {"code_counts": torch.zeros(self.usage_depth, counted, dtype=torch.int64)}

    @property
    def usage_depth(self) -> int:
        """How many rows `code_counts` and the usage have: one for each depth."""
        return self.depth

    @abstractmethod
    def forward(self, x: Tensor, *, seeds: Tensor | None = None, active_depths: Tensor | None = None) -> Quantized:
        """x [B, ..., D] quantized.

        seeds: int64 [B], one a sample, for what is random in training; by default drawn from torch's random state.
        active_depths: int64 [B] or broadcastable to [B, ...], how many depths to use; by default as the quantizer says.
        """

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """The vectors [..., D] of codes [..., ≤ Q]: of any prefix of the depths; −1 adds nothing."""

    def commit(self) -> None:
        """Lets the codebook learn from what it has seen since the last commit, where `commit="manual"` asked for it."""

    def usage(self) -> tuple[Tensor, Tensor]:
        """The share of the codes that were used and their perplexity, both float32 [Q], since `reset_usage`.

        NaN where codes are too many to be counted.
        """
        if self.size > _MOST_COUNTED:
            unknown = torch.full((self.depth,), torch.nan, device=self.code_counts.device)
            return unknown, unknown
        return share_used(self.code_counts), perplexity(self.code_counts)

    def reset_usage(self) -> None:
        self.code_counts.zero_()

    def sum_usage_over_ranks(self) -> None:
        """Makes `usage` that of all ranks' codes, the same on each, by one collective that all ranks must take part in.

        Where a forward counted all ranks' codes already, the shares stay as they are.
        """
        (counts,) = sum_over_ranks([self.code_counts])
        self.code_counts.copy_(counts)

    def count(self, codes: Tensor) -> None:
        """Adds codes [..., Q] to the usage, unless they were counted before or must not be."""
        if self.size <= _MOST_COUNTED and may_have_side_effects():
            count_codes(self.code_counts, codes)

    def check(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[-1] != self.dimensions:
            raise ValueError(f"x must be [B, ..., {self.dimensions}], got {list(x.shape)}")


def check_weights(**weights: float) -> None:
    """ValueError, which names it, for a weight of a loss that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {weight}")

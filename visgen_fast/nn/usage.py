"""How much of a codebook is in use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def count_codes(counts: Tensor, codes: Tensor) -> None:
    """Adds how often each code occurs in codes [..., Q] to counts int64 [Q, K], in place; −1 counts nowhere."""
    columns = codes.reshape(math.prod(codes.shape[:-1]), codes.shape[-1]).T
    counts.scatter_add_(1, columns.clamp_min(0), (columns >= 0).to(counts.dtype))


def share_used(counts: Tensor) -> Tensor:
    """The share of the codes that occur at all: counts [Q, K] -> [Q]."""
    return (counts > 0).float().mean(-1)


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the codes' frequencies, K where all are equally frequent: counts [Q, K] -> [Q].

    1 where nothing was counted.
    """
    frequency = counts.double() / counts.sum(-1, keepdim=True).clamp_min(1)
    return torch.special.entr(frequency).sum(-1).exp().float()

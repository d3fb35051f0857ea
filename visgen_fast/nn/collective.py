"""Sums over the ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def is_distributed() -> bool:
    """Whether torch.distributed is set up, with one rank or more."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) where torch.distributed is not set up."""
    if is_distributed():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sums of tensors of one type over all ranks, the same bits on each, in one collective."""
    if rank_and_world()[1] == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

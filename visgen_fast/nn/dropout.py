"""Quantizer dropout: some samples are trained with their first depths only, so that every prefix decodes well."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Purpose, uniform


def draw_active_depths(seeds: Tensor, depth: int, *, probability: float = 1.0, multiple_of: int = 1) -> Tensor:
    """How many of `depth` depths each sample uses: int64 [B], a function of seeds int64 [B].

    With `probability` a number from 1 to `depth`, each as likely, rounded up to a multiple of `multiple_of` (at most
    `depth`); else all.

    Source: Zeghidour et al., "SoundStream: an end-to-end neural audio codec", 2021, section III.C; multiples:
    Défossez et al., "High fidelity neural audio compression", 2022.
    """
    dropped, last = uniform(seeds, (2,), stream=Purpose.DROPOUT.stream()).unbind(1)
    active = (last * depth).ceil().to(torch.int64)  # last lies in (0, 1]
    active = ((active + multiple_of - 1) // multiple_of * multiple_of).clamp_max(depth)
    return torch.where(dropped <= probability, active, depth)

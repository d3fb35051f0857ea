"""Codebooks that start as the k-means clusters of the first batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import Purpose, codebook_statistics, derive_seeds, nearest_code
from .collective import rank_and_world, sum_over_ranks


def kmeans_start(
    x: Tensor, embedding: Tensor, depth: int, *, iterations: int, seed: Tensor, cosine: bool, zero_code: bool
) -> tuple[Tensor, Tensor]:
    """(codebooks shaped as `embedding`, the vectors' number of each code) fitted to the vectors x [N, D] of all ranks.

    Each depth's codebook is fitted to the residuals that the ones before leave. One that all depths share is the union
    of smaller ones, a part for each depth. Codes for which there are no vectors stay those of `embedding`.
    """
    residual = x[x.isfinite().all(-1)].to(embedding.dtype)
    shared, size = embedding.dim() == 2, embedding.shape[-2]
    fitted, sizes = [], []
    for q in range(depth):
        initial = embedding[size * q // depth : size * (q + 1) // depth] if shared else embedding[q]
        if not len(initial):
            continue
        pinned = zero_code and (q == 0 or not shared)
        at = derive_seeds(seed, torch.tensor([q], device=x.device), purpose=Purpose.CODEBOOK, step=1)[0]
        centres, counts = _lloyd(residual, _seeded(residual, initial, at, pinned), iterations, cosine, pinned)
        residual = residual - centres[nearest_code(residual, centres)]
        fitted.append(centres)
        sizes.append(counts)
    combine = torch.cat if shared else torch.stack
    return combine(fitted), combine(sizes)


def _seeded(residual: Tensor, initial: Tensor, seed: Tensor, pinned: bool) -> Tensor:
    """`initial` [K, D] with random residuals in its codes' places, every rank's in its share of them."""
    code = torch.arange(len(initial), device=residual.device)
    rank, world = rank_and_world()
    ours = (code % world == rank) & (code >= pinned)
    seeds = derive_seeds(seed, torch.arange(len(residual), device=residual.device) * world + rank)
    order = seeds.argsort(stable=True)
    found = torch.zeros_like(initial)
    if len(residual):
        found[ours] = residual[order[(code[ours] // world) % len(residual)]]
    else:
        ours = torch.zeros_like(ours)
    found, offered = sum_over_ranks((found, ours.to(found.dtype)))
    return torch.where(offered[:, None] > 0, found, initial)


def _lloyd(residual: Tensor, centres: Tensor, iterations: int, cosine: bool, pinned: bool) -> tuple[Tensor, Tensor]:
    """(centres [K, D], their numbers of vectors [K]) after Lloyd's iterations; with `pinned` the first centre stays."""
    for _ in range(iterations):
        counts, sums = _assigned(residual, centres)
        moved = F.normalize(sums, dim=-1) if cosine else sums / counts.clamp_min(1)[:, None]
        kept = counts == 0
        if cosine:
            kept |= ~moved.any(-1)
        kept[0] |= pinned
        centres = torch.where(kept[:, None], centres, moved)
    return centres, _assigned(residual, centres)[0]


def _assigned(residual: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(counts [K], sums [K, D]) of all ranks' residuals by their nearest centre."""
    codes = nearest_code(residual, centres)
    counts, sums = codebook_statistics(residual, codes[:, None], centres)
    all_counts, all_sums = sum_over_ranks((counts[0], sums[0]))
    return all_counts, all_sums

"""What one or several batches tell a codebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import Purpose, codebook_statistics, derive_seeds
from .collective import rank_and_world, sum_over_ranks
from .state import converted


class Statistics(NamedTuple):
    """Of Q depths and B codebooks (Q of them, or one that all depths share), all of the embedding's type:

    counts: [Q, K] of the residuals with each code; sums: [Q, K, D] of them.
    candidates: [B, K, D], for each code a random residual that may take its place; offered: [B, K], 1 where there is
        one and 0 elsewhere, where the candidate is 0. Both are empty where dead codes stay dead.
    """

    counts: Tensor
    sums: Tensor
    candidates: Tensor
    offered: Tensor

    def over_ranks(self) -> Statistics:
        """Those of all ranks' batches, the same on each, by one collective."""
        return Statistics(*sum_over_ranks(self))


class Gathered(NamedTuple):
    """The statistics of some batches one after the other, and how many vectors they had: rows, int64 []."""

    statistics: Statistics
    rows: Tensor

    @staticmethod
    def nothing(embedding: Tensor, depth: int, *, revival: bool) -> Gathered:
        """Room for the statistics of codebooks [Q, K, D] or, shared by `depth` depths, [K, D]."""
        size, dimensions = embedding.shape[-2:]
        books = (1 if embedding.dim() == 2 else depth) if revival else 0
        with torch.inference_mode(False):  # what is made in that mode could not be changed outside of it
            shapes = (depth, size), (depth, size, dimensions), (books, size, dimensions), (books, size)
            tensors = [torch.zeros(shape, dtype=embedding.dtype, device=embedding.device) for shape in shapes]
            return Gathered(Statistics(*tensors), torch.zeros((), dtype=torch.int64, device=embedding.device))

    def add(self, new: Statistics, rows: int) -> None:
        """Adds the statistics of a batch of `rows` vectors, in place."""
        held = self.statistics
        held.counts.add_(new.counts)
        held.sums.add_(new.sums)
        if len(held.offered):
            held.candidates.copy_(torch.where(new.offered[..., None] > 0, new.candidates, held.candidates))
            held.offered.copy_(torch.maximum(held.offered, new.offered))
        self.rows.add_(rows)

    def clear(self) -> None:
        for tensor in (*self.statistics, self.rows):
            tensor.zero_()

    def converted(self, function: Callable[[Tensor], Tensor]) -> Gathered:
        """With `function` applied as to the codebook's own tensors; cleared where these had no values before."""
        found = Gathered(Statistics(*(converted(function, t) for t in self.statistics)), converted(function, self.rows))
        if self.rows.is_meta:
            found.clear()
        return found


def gather(
    x: Tensor, codes: Tensor, embedding: Tensor, *, seed: Tensor, batch: Tensor, earlier: Tensor | None, revival: bool
) -> Statistics:
    """The statistics of a batch x [N, D] with codes [N, Q], quantized with embedding [Q, K, D] or [K, D].

    seed and batch, int64 [], say which vectors become candidates; `earlier`, int64 [], is how many vectors the
    candidates of earlier batches were chosen from: new ones take their place only with the probability that makes a
    candidate any of all vectors, each as likely.
    """
    counts, sums = codebook_statistics(x, codes, embedding)
    if revival:
        found, offered = _candidates(x, codes, embedding, seed, batch, earlier)
    else:
        found, offered = sums.new_empty(0), counts.new_empty(0)
    return Statistics(*(tensor.to(embedding.dtype) for tensor in (counts, sums, found, offered)))


def _candidates(
    x: Tensor, codes: Tensor, embedding: Tensor, seed: Tensor, batch: Tensor, earlier: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(candidates [B, K, D], offered [B, K]): residuals of rows that a hash picks, without a look at the host.

    Each rank makes offers for its share of the codes, the same in every batch, so that a commit has one offer a code at
    most. A row with NaN or infinity, or without that depth, is no offer.
    """
    rows, depth = codes.shape
    size, dimensions = embedding.shape[-2:]
    shared = embedding.dim() == 2
    if rows == 0:
        books = 1 if shared else depth
        return embedding.new_zeros(books, size, dimensions), embedding.new_zeros(books, size)
    code = torch.arange(size, device=x.device)
    rank, world = rank_and_world()
    hashed = derive_seeds(seed, batch * size + code, purpose=Purpose.CODEBOOK)
    total = rows if earlier is None else earlier + rows
    chosen = hashed.remainder(total)
    ours = (chosen < rows) & (code % world == rank)
    found, offered = _residuals(x, codes, embedding, chosen.clamp_max(rows - 1), ours)
    if shared:  # of any depth
        which = torch.div(hashed, total, rounding_mode="floor").remainder(depth)
        found, offered = found[which, code][None], offered[which, code][None]
    return found, offered.to(embedding.dtype)


def _residuals(x: Tensor, codes: Tensor, embedding: Tensor, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(r_q of some rows [Q, K, D], whether they are there [Q, K]): 0 where not wanted [K], not finite, or dropped."""
    residual, codes = x.index_select(0, rows).to(embedding.dtype), codes.index_select(0, rows).T
    found = residual.new_empty(len(codes), *residual.shape)
    there = (codes >= 0) & wanted
    for q, code in enumerate(codes):
        codebook = embedding if embedding.dim() == 2 else embedding[q]
        there[q] &= residual.sum(-1).isfinite()
        found[q] = torch.where(there[q, :, None], residual, 0)
        residual.sub_(torch.where(code[:, None] >= 0, codebook.index_select(0, code.clamp_min(0)), 0))
    return found, there

"""Residual quantization by beam search: better codes for evaluation than the nearest at each depth."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import residual_quantize

_MOST_SCORES = 2**22  # numbers of a (vectors × beam × codes) block that is looked at in one go


@torch.no_grad()
def beam_search(x: Tensor, codebooks: Tensor, beam: int, depth: int | None = None) -> Tensor:
    """Codes whose sum is near to each vector, from `beam` prefixes that are kept at every depth.

    The prefixes have places. Each place takes the nearest continuation of the prefixes in its own and earlier places
    that is not taken yet. So the first place is the greedy choice of `residual_quantize`, a wider beam keeps all
    prefixes of a narrower one, and no vector ends farther from its codes. Among codes at equal distances any may come
    first here.

    Args:
        x: [..., D]; codebooks: [Q, K, D] or, shared by all depths, [K, D].
        beam: at least 1.
        depth: Q; by default the number of codebooks.

    Returns:
        int64 [..., Q]; 0 for vectors with NaN or infinity. ValueError for a beam below 1.

    Memory: blocks of at most 2²² distances; in a compiled or exported graph, all of them. Source: Babenko and
    Lempitsky, "Additive quantization for extreme vector compression", 2014, section 3.2, has the search without places.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    if depth is None:
        depth = codebooks.shape[0] if codebooks.dim() == 3 else 1
    if beam == 1:
        return residual_quantize(x, codebooks, depth=depth, gradient="none")[1]
    rows = x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    codebooks = codebooks.to(rows.dtype)
    at_a_time = max(1, _MOST_SCORES // (beam * codebooks.shape[-2]))
    blocks = [rows] if torch.compiler.is_compiling() else rows.split(at_a_time)  # a graph would fix their number
    codes = torch.cat([_search(some, codebooks, beam, depth) for some in blocks])
    return torch.where(rows.isfinite().all(-1, keepdim=True), codes, 0).view(*x.shape[:-1], depth)


def _search(rows: Tensor, codebooks: Tensor, beam: int, depth: int) -> Tensor:
    """The codes [N, Q] of rows [N, D]."""
    residual = rows[:, None]  # [N, places, D]
    codes = torch.zeros(rows.shape[0], 1, 0, dtype=torch.int64, device=rows.device)
    for q in range(depth):
        codebook = codebooks if codebooks.dim() == 2 else codebooks[q]
        distances, nearest = _distances(residual, codebook).topk(min(beam, len(codebook)), dim=-1, largest=False)
        taken = _take(distances, beam)
        prefix, code = taken // distances.shape[2], nearest.flatten(1).gather(1, taken)
        residual = _pick(residual, prefix) - codebook[code]
        codes = torch.cat((_pick(codes, prefix), code[..., None]), -1)
    best = residual.double().square().sum(-1).argmin(1, keepdim=True)
    return _pick(codes, best)[:, 0]


def _distances(residual: Tensor, codebook: Tensor) -> Tensor:
    """‖r − e‖² in float64, [N, places, K]; infinite for codes with NaN or infinity."""
    r, e = residual.double(), codebook.double()
    distances = r.square().sum(-1, keepdim=True) + e.square().sum(-1) - 2 * r @ e.T
    return torch.where(e.isfinite().all(-1), distances, torch.inf)


def _take(distances: Tensor, beam: int) -> Tensor:
    """Which continuations the places take, [N, places], given distances [N, prefixes, continuations]."""
    prefixes, continuations = distances.shape[1:]
    left, taken = distances.flatten(1).clone(), []
    for place in range(min(beam, prefixes * continuations)):
        at = left[:, : min(place + 1, prefixes) * continuations].argmin(1, keepdim=True)
        left.scatter_(1, at, torch.inf)
        taken.append(at)
    return torch.cat(taken, 1)


def _pick(values: Tensor, which: Tensor) -> Tensor:
    """values [N, places, n] at which [N, m]: [N, m, n]."""
    return values.gather(1, which[..., None].expand(-1, -1, values.shape[-1]))

"""Draws of codes from logits, in plain PyTorch: the definition the compiled kernels are held to.

A draw from softmax(ℓ/T) is the argmax of ℓ + T·g with g of Gumbel's distribution (Gumbel, "Statistical theory of
extreme values", 1954; Maddison, Tarlow and Minka, "A* sampling", 2014). So T = 0 needs no case of its own.

Filters go by value, and codes of equal logits stay or go together: of Fan et al., "Hierarchical neural story
generation", 2018 (top-k), and Holtzman et al., "The curious case of neural text degeneration", 2020 (top-p).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .noise import gumbel

__all__ = ["confident_mask", "sample_tokens"]

_MOST = torch.finfo(torch.float32).max  # of a temperature, so that noise times it is finite in float64


def sample_tokens(
    logits: Tensor,
    seeds: Tensor,
    *,
    unconditional: Tensor | None = None,
    guidance: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    stream: int = 0,
    log_probability: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """argmax of ℓ + T·gumbel among the kept codes, the lowest of equals; and ln softmax(ℓ) there."""
    with torch.no_grad():
        guided = _guided(logits, unconditional, guidance)
        t = _rows(temperature, logits, 0.0, _MOST)
        score = guided.double() + t * gumbel(seeds, logits.shape[1:], stream=stream, dtype=torch.float64)
        score = score.masked_fill(~_kept(guided.double(), t, top_k, top_p), -math.inf)
        index = torch.arange(logits.shape[-1], device=logits.device)
        codes = torch.where(score == score.amax(-1, keepdim=True), index, len(index)).amin(-1)
        bad = guided.isnan().any(-1) | (guided == math.inf).any(-1) | (guided == -math.inf).all(-1)
        for parameter in (guidance, temperature, top_p):
            if isinstance(parameter, Tensor):
                bad = bad | _per_sample(parameter.isnan(), bad)
        codes = codes.masked_fill(bad, -1)
        if not log_probability:
            return codes
        chosen = guided.double().log_softmax(-1).gather(-1, codes.clamp_min(0)[..., None])[..., 0]
        return codes, chosen.masked_fill(bad, math.nan).float()


def _guided(logits: Tensor, unconditional: Tensor | None, guidance: float | Tensor) -> Tensor:
    """ℓ = u + guidance·(c − u) in float32, in float64 for float64; c at guidance 1; −∞ where c or u is."""
    conditional = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if unconditional is None:
        return conditional
    other, most = unconditional.to(conditional.dtype), torch.finfo(conditional.dtype).max
    if isinstance(guidance, Tensor):
        guidance = _per_sample(guidance.double().clamp(-most, most), logits).to(conditional.dtype)
    guided = other + guidance * (conditional - other)
    guided = guided.masked_fill((conditional == -math.inf) | (other == -math.inf), -math.inf)
    return torch.where(torch.as_tensor(guidance == 1, device=logits.device), conditional, guided)


def _kept(guided: Tensor, t: Tensor | float, top_k: int | Tensor | None, top_p: float | Tensor | None) -> Tensor:
    """Those not below the k-th largest, and of these each above which lies less than top_p of softmax(ℓ/T)."""
    codes = guided.shape[-1]
    ranked = guided.sort(-1, descending=True).values
    kept = torch.ones_like(guided, dtype=torch.bool)
    if top_k is not None:
        k = torch.as_tensor(_rows(top_k, guided, 1, codes), device=guided.device).long()
        least = ranked.gather(-1, (k - 1).expand(*guided.shape[:-1], 1))
        kept, ranked = guided >= least, ranked.masked_fill(ranked < least, -math.inf)
    if top_p is not None:
        p = _rows(top_p, guided, 0.0, 1.0)
        mass = torch.where(ranked == ranked[..., :1], 1.0, ((ranked - ranked[..., :1]) / t).exp())
        above = torch.cat((torch.zeros_like(mass[..., :1]), mass.cumsum(-1)), -1)
        larger = torch.searchsorted(-ranked, -guided)  # how many codes have a larger ℓ
        share = above.gather(-1, larger) / above[..., -1:]
        kept = kept & ((share < p) | (larger == 0) | torch.as_tensor(p == 1, device=guided.device))
    return kept


def _rows(value: float | Tensor, like: Tensor, least: float = -math.inf, most: float = math.inf) -> float | Tensor:
    """A parameter of `like`: a number, or a tensor [B] as float64 [B, 1, …]; the nearest legal value of each."""
    if isinstance(value, Tensor):
        return _per_sample(value.double().clamp(least, most), like)
    return min(max(value, least), most)


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, …], so that it broadcasts over `like`."""
    return value.view(-1, *[1] * (like.dim() - 1))


def confident_mask(
    log_probability: Tensor,
    seeds: Tensor,
    *,
    unknown: Tensor,
    count: int | Tensor,
    temperature: float | Tensor = 0.0,
    stream: int = 0,
) -> Tensor:
    """True at the min(count, unknown) unknown codes of least ln p + T·gumbel, the first of equals; NaN is the least."""
    with torch.no_grad():
        t = _rows(temperature, log_probability, 0.0, _MOST)
        score = log_probability.double() + t * gumbel(
            seeds, log_probability.shape[1:], stream=stream, dtype=torch.float64
        )
        ranked = score.masked_fill(score.isnan(), -math.inf).sort(dim=-1, stable=True).indices
        candidates = unknown.gather(-1, ranked)
        marked = candidates & (candidates.cumsum(-1) <= _rows(count, log_probability))
        return torch.zeros_like(unknown).scatter(-1, ranked, marked)

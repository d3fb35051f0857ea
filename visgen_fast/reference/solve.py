"""One step of a sampler, in plain PyTorch: the definition the compiled kernels are held to.

A sampler is a table with one row for each network call. From the state x, as the network read it, and the network's
outputs o_j a row computes

    g    = Σ_j w_j·o_j                          guidance: w are the weights of the outputs, 1 for a single one
    x̂    = clamp(u·x + v·g)                     the denoised image
    z    = noise·exp(½(l0 + l1·variance))       without a variance, the noise itself
    next = Σ_k c_k·operand_k,                   operands (x, x̂, o, s0, s1, s2, s3, z), o the last output

and two of the slots s0…s3, which carry what later rows need, as other sums of the same operands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import gaussian

__all__ = ["denoised_quantile", "output_products", "solver_step"]

COLUMNS = 32
TIME, U, V, CLAMP, L0, L1, SLOT_A, SLOT_B, NEXT, WRITE_A, WRITE_B = 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 24
MOST_SLOTS = 4


def solver_step(
    x: Tensor,
    outputs: Tensor | Sequence[Tensor],
    table: Tensor,
    step: int | Tensor,
    *,
    slots: Sequence[Tensor] = (),
    weights: Tensor | None = None,
    seeds: Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    variance: Tensor | None = None,
    limit: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(next, slots) after the rows `step` of the table; arithmetic in float32, in float64 for float64 x."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    step = torch.as_tensor(step, device=x.device)
    row = _rows(table, step, x).to(dtype)
    state = x.to(dtype)
    denoised = denoise(state, [o.to(dtype) for o in outputs], row, _weights(weights, step, outputs, x, dtype), limit)
    operands = [state, denoised, outputs[-1].to(dtype), *(slot.to(dtype) for slot in slots)]
    operands += [torch.zeros_like(state)] * (3 + MOST_SLOTS - len(operands))
    operands.append(_noise(x, row, step, seeds, noise, stream, variance, dtype))
    after = list(slots)
    for column, first in ((SLOT_A, WRITE_A), (SLOT_B, WRITE_B)):
        for place, slot in enumerate(slots):
            written = _combined(row[..., first : first + 8], operands).to(slot.dtype)
            after[place] = torch.where(row[..., column] == place, written, after[place])
    return _combined(row[..., NEXT : NEXT + 8], operands).to(x.dtype), tuple(after)


def output_products(outputs: Tensor | Sequence[Tensor], x: Tensor | None = None) -> Tensor:
    """Per sample, the sums over all elements of the products of (1, x, outputs): float64 [B, n, n]."""
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    signals = [torch.ones_like(outputs[0]), *([] if x is None else [x]), *outputs]
    flat = torch.stack([_rows_of(signal.double()) for signal in signals], 1)
    return flat @ flat.transpose(1, 2)


def denoised_quantile(
    x: Tensor,
    outputs: Tensor | Sequence[Tensor],
    table: Tensor,
    step: int | Tensor,
    q: float,
    weights: Tensor | None = None,
) -> Tensor:
    """The quantile q of |x̂| of each sample, before any clamp, as `torch.quantile` interpolates it: [B]."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    step = torch.as_tensor(step, device=x.device)
    row = _rows(table, step, x).to(dtype).clone()
    row[..., CLAMP] = 0
    scaled = [o.to(dtype) for o in outputs]
    denoised = denoise(x.to(dtype), scaled, row, _weights(weights, step, outputs, x, dtype), None)
    ordered = _rows_of(denoised.abs()).sort(1).values
    last = ordered.shape[1] - 1
    place = torch.full((1,), q, dtype=dtype, device=x.device) * last
    low, high = (ordered.index_select(1, rank.long().clamp_max(last))[:, 0] for rank in (place.floor(), place.ceil()))
    interpolated = torch.lerp(low, high, (place - place.floor()).expand_as(low))
    return torch.where(ordered.isnan().any(1), torch.nan, interpolated)


def denoise(
    x: Tensor, outputs: Sequence[Tensor], row: Tensor, weights: Sequence[Tensor | float], limit: Tensor | None
) -> Tensor:
    """x̂ = u·x + v·g, clamped: to ±row's clamp where it is positive; or to ±limit, and divided by it."""
    guided = _sum_of_terms(weights, outputs)
    denoised = _sum_of_terms((row[..., U], row[..., V]), (x, guided))
    if limit is not None:
        bound = limit.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        return torch.minimum(torch.maximum(denoised, -bound), bound) / bound
    bound = torch.where(row[..., CLAMP] > 0, row[..., CLAMP], torch.inf)
    return torch.minimum(torch.maximum(denoised, -bound), bound)


def _rows_of(x: Tensor) -> Tensor:
    """A row a sample, [B, elements]."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _sum_of_terms(weights: Sequence[Tensor | float], terms: Sequence[Tensor]) -> Tensor:
    """Σ weight·term; a term whose weight is 0 counts as 0 whatever it holds."""
    total = torch.zeros_like(terms[0])
    for weight, term in zip(weights, terms, strict=True):
        weight = torch.as_tensor(weight, dtype=term.dtype, device=term.device)
        total = total + torch.where(weight == 0, 0, weight * term)
    return total


def _combined(coefficients: Tensor, operands: Sequence[Tensor]) -> Tensor:
    return _sum_of_terms(coefficients.unbind(-1), operands)


def _rows(table: Tensor, step: Tensor, x: Tensor) -> Tensor:
    """The rows [*step, 1, …, 32] that each element of x has, NaN where a step lies outside the table."""
    outside = (step < 0) | (step >= len(table))
    chosen = table.index_select(0, step.clamp(0, len(table) - 1).reshape(-1)).view(*step.shape, COLUMNS)
    row = chosen.masked_fill(outside[..., None], torch.nan)
    return row.view(*step.shape, *[1] * (x.dim() - step.dim()), COLUMNS)


def _weights(
    weights: Tensor | None, step: Tensor, outputs: Sequence[Tensor], x: Tensor, dtype: torch.dtype
) -> Sequence[Tensor | float]:
    if weights is None:
        return [1.0] + [0.0] * (len(outputs) - 1)
    if weights.dim() == 1:
        return [*weights.to(dtype)]
    place = step.clamp(0, len(weights) - 1) if len(weights) > 1 else torch.zeros_like(step)
    if step.dim() == 0:
        chosen = weights.index_select(0, place.view(1))[0]  # [B or 1, J]
        chosen = chosen.view(-1, *[1] * (x.dim() - 1), len(outputs))
    else:
        sample = torch.arange(len(x), device=x.device).view(-1, *[1] * (step.dim() - 1))
        chosen = weights.expand(-1, len(x), -1)[place, sample]  # [*step, J]
        chosen = chosen.view(*step.shape, *[1] * (x.dim() - step.dim()), len(outputs))
    return [*chosen.to(dtype).unbind(-1)]


def _noise(
    x: Tensor,
    row: Tensor,
    step: Tensor,
    seeds: Tensor | None,
    noise: Tensor | None,
    stream: int,
    variance: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """z: the noise of row r is that of the seeds' stream `stream` + r."""
    columns = [first + 7 for first in (NEXT, WRITE_A, WRITE_B)]
    if noise is not None:
        z = noise.to(dtype)
    elif seeds is None:
        assert not bool((row[..., columns] != 0).any()), "seeds or noise must be given for a row that adds noise"
        return torch.zeros_like(x, dtype=dtype)
    else:
        z = torch.zeros_like(x, dtype=dtype)
        levels = step.view(*step.shape, *[1] * (x.dim() - step.dim()))
        for r in step.unique().tolist():
            fresh = gaussian(seeds, x.shape[1:], stream=stream + max(r, 0), dtype=dtype)
            z = torch.where(levels == r, fresh, z)
    if variance is not None:
        z = z * torch.exp(0.5 * (row[..., L0] + row[..., L1] * variance.to(dtype)))
    return z

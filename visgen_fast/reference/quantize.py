"""Vector and residual quantization in plain PyTorch: the definition the compiled kernels are held to.

Residual quantization (Lee et al., "Autoregressive image generation using residual quantization", 2022, eq. 2) replaces
a vector x by one code at each of Q depths:

    r_0 = x,    k_q = the code of codebook q nearest to r_q,    r_{q+1} = r_q − e_q(k_q),    quantized = Σ_q e_q(k_q)

Vector quantization (van den Oord et al., "Neural discrete representation learning", 2017) is the case Q = 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["decode_codes", "nearest_code", "residual_quantize"]

_MOST_PAIRS = 2**24  # numbers of a (vectors × codes × dimensions) block that is looked at in one go


def nearest_code(x: Tensor, codebook: Tensor, *, metric: str = "l2") -> Tensor:
    """The code of `codebook` [K, D] nearest to each vector of x [..., D]: int64 [...]."""
    rows = x.detach().to(torch.promote_types(x.dtype, torch.float32)).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return _search(rows, codebook.detach().to(rows.dtype), metric).view(x.shape[:-1])


def residual_quantize(
    x: Tensor,
    codebooks: Tensor,
    *,
    depth: int | None = None,
    active_depths: Tensor | None = None,
    metric: str = "l2",
    gradient: str = "straight_through",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(quantized [..., D], codes [..., Q], commitment [..., Q], codebook_error [..., Q]) of x [..., D]."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if depth is None:
        depth = codebooks.shape[0] if codebooks.dim() == 3 else 1
    residual, chosen = x.detach().to(dtype), []
    active = _active_depths(active_depths, x, depth)
    for q in range(depth):
        codebook = codebook_of(codebooks, q).detach().to(dtype)
        code = nearest_code(residual, codebook, metric=metric)
        residual = residual - embeddings_of(codebook, code)
        chosen.append(torch.where(active > q, code, -1))
    codes = torch.stack(chosen, -1) if depth else x.new_zeros((*x.shape[:-1], 0), dtype=torch.int64)
    quantized, commitment, codebook_error = from_codes(x, codebooks, codes, gradient=gradient)
    return quantized, codes, commitment, codebook_error


def from_codes(
    x: Tensor, codebooks: Tensor, codes: Tensor, *, gradient: str = "straight_through"
) -> tuple[Tensor, Tensor, Tensor]:
    """(quantized, commitment, codebook_error) of `residual_quantize`, given its codes: everything differentiable in it.

    commitment_q = mean (r_q − sg e_q)² with r_q = x − sg Σ_{j<q} e_j, and codebook_error_q = mean (sg r_q − e_q)².
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    exact = x.to(dtype)
    total, passed = torch.zeros_like(exact).detach(), torch.zeros_like(exact)
    commitment, codebook_error = [], []
    valid = exact.new_ones((*exact.shape[:-1], 1), dtype=torch.bool)
    residual = exact
    for q in range(codes.shape[-1]):
        active = codes[..., q, None] >= 0
        e = embeddings_of(codebook_of(codebooks, q).to(dtype), codes[..., q])
        valid = valid & (residual.detach().isfinite().all(-1, keepdim=True) | ~active)
        after = residual - e.detach()
        commitment.append(_mean_square(after, active, valid))
        codebook_error.append(_mean_square(residual.detach() - e, active, valid))
        if gradient == "straight_through_per_depth":
            passed = passed + torch.where(active, residual, 0)
        elif gradient == "rotation_per_depth":
            passed = passed + torch.where(active, rotate(residual, e.detach()), 0)
        total = total + e.detach()
        residual = torch.where(active, after, residual)
    if gradient == "straight_through":
        passed = exact
    elif gradient == "rotation":
        passed = rotate(exact, total)
    # The value is the codes' sum; `passed` adds its gradient and the number 0, also where nobody looked at a NaN.
    nothing = passed - passed.detach()
    quantized = torch.where(valid, total, torch.nan) + torch.where(valid & nothing.isnan(), 0, nothing)
    return quantized.to(x.dtype), _stacked(commitment, exact), _stacked(codebook_error, exact)


def rotate(source: Tensor, target: Tensor) -> Tensor:
    """λ·R·source, which equals `target`: R rotates the source's direction into the target's, λ is the ratio of norms.

    R and λ are constants to the gradient, which is thus turned by Rᵀ and scaled by λ (Fifty et al., "Restructuring
    vector quantization with the rotation trick", 2024, section 4.2). A source of length 0 has no direction: the
    gradient goes straight through. In float64, of vectors brought to lengths around 1.
    """
    exact = source.double()
    (s, s_exponent), (t, t_exponent) = _to_unit_scale(exact.detach()), _to_unit_scale(target.detach().double())
    s_norm, t_norm = s.norm(dim=-1, keepdim=True), t.norm(dim=-1, keepdim=True)
    s_unit, t_unit = _divided(s, s_norm), _divided(t, t_norm)
    w = _divided(s_unit + t_unit, (s_unit + t_unit).norm(dim=-1, keepdim=True))

    def along(direction: Tensor) -> Tensor:
        return (exact * direction).sum(-1, keepdim=True)

    rotated = exact - 2 * along(w) * w + 2 * along(s_unit) * t_unit
    ratio = _times_power_of_two(_divided(t_norm, s_norm), t_exponent - s_exponent)
    return torch.where(s_norm == 0, exact, ratio * rotated).to(source.dtype)


def _to_unit_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Each vector divided by a power of two, so that its squares neither overflow nor vanish, and the exponent."""
    largest = torch.nn.functional.pad(vectors.abs(), (0, 1)).amax(-1, keepdim=True)  # 0 without dimensions
    exponent = torch.frexp(largest).exponent
    return _times_power_of_two(vectors, -exponent), exponent


def _times_power_of_two(value: Tensor, exponent: Tensor) -> Tensor:
    """In two steps, since the power itself may be none of float64's numbers."""
    one, half = torch.ones_like(exponent, dtype=value.dtype), exponent // 2
    return value * torch.ldexp(one, half) * torch.ldexp(one, exponent - half)


def decode_codes(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Σ_q of the embeddings [..., D] of codes [..., Q]; −1 adds nothing."""
    exact = codebooks.to(torch.promote_types(codebooks.dtype, torch.float32))
    total = exact.new_zeros((*codes.shape[:-1], exact.shape[-1]))
    for q in range(codes.shape[-1]):
        total = total + embeddings_of(codebook_of(exact, q), codes[..., q])
    return total.to(codebooks.dtype)


def _active_depths(active_depths: Tensor | None, x: Tensor, depth: int) -> Tensor:
    """For each vector of x, how many depths are active: int64 [...]. One dimension is a number a sample."""
    if active_depths is None:
        return torch.full(x.shape[:-1], depth, dtype=torch.int64, device=x.device)
    if active_depths.dim() == 1 and x.dim() > 2:
        active_depths = active_depths.view(-1, *[1] * (x.dim() - 2))
    return active_depths.to(torch.int64).expand(x.shape[:-1])


def scores(rows: Tensor, codebook: Tensor, metric: str) -> Tensor:
    """What the nearest code has least of, in float64: [rows, codes]. Codes with NaN or infinity: +infinity."""
    rows, codebook = rows.double(), codebook.double()
    if metric == "l2":
        result = (rows[:, None] - codebook).square().sum(-1)
    else:
        result = -(rows @ codebook.T)
        if metric == "cosine":
            norm = codebook.norm(dim=-1)
            result = torch.where(norm > 0, result / norm, 0)
    return torch.where(codebook.isfinite().all(-1), result, torch.inf)


def _search(rows: Tensor, codebook: Tensor, metric: str) -> Tensor:
    chunk = max(1, _MOST_PAIRS // max(codebook.numel(), 1))
    codes = [scores(some, codebook, metric).argmin(-1) for some in rows.split(chunk)]
    return torch.where(rows.isfinite().all(-1), torch.cat(codes), 0)


def codebook_of(codebooks: Tensor, q: int) -> Tensor:
    return codebooks[q] if codebooks.dim() == 3 else codebooks


def embeddings_of(codebook: Tensor, codes: Tensor) -> Tensor:
    found = codebook.index_select(0, codes.clamp_min(0).flatten()).view(*codes.shape, codebook.shape[-1])
    return torch.where(codes[..., None] >= 0, found, 0)


def _mean_square(difference: Tensor, active: Tensor, valid: Tensor) -> Tensor:
    mean = difference.square().mean(-1, keepdim=True)
    return torch.where(active, torch.where(valid, mean, torch.nan), 0)[..., 0]


def _stacked(columns: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(columns, -1) if columns else like.new_zeros((*like.shape[:-1], 0))


def _divided(vector: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm == 0, 0, vector / norm)  # NaN stays NaN

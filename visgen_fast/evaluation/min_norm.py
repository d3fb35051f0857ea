"""The combination of gradients that all tasks agree to."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 16
_AT_A_TIME = 4096


def min_norm_weights(gram: Tensor) -> Tensor:
    """The w ≥ 0 of sum 1 that minimizes ‖Σ_k w_k·g_k‖² = w·G·w, for gradients of which `gram` [K, K] holds ⟨g_j, g_k⟩.

    Exact: float64 [K]. Against the combination no gradient points: a step along it harms no task to first order; where
    it is 0 the tasks are at a Pareto optimum. A `gram` that is estimated without bias need not be positive; the minimum
    is still the smallest of all.

    Inside a face S of the simplex a minimum has G_SS·w = μ·1 and sum 1; where these equations are singular, it moves to
    a smaller face at no cost. All 2^K − 1 faces are looked at.

    Raises ValueError unless gram is a finite symmetric matrix of 1 to 16 rows.

    Source: Désidéri, "Multiple-gradient descent algorithm", 2012; for noise levels Hang et al., "Efficient diffusion
    training via Min-SNR weighting strategy", 2023, section 3.3, there by gradient steps.
    """
    if gram.dim() != 2 or gram.shape[0] != gram.shape[1] or not 1 <= len(gram) <= _MOST:
        raise ValueError(f"gram must be [K, K] with K from 1 to {_MOST}, got {list(gram.shape)}")
    gram = gram.detach().double().cpu()
    if not gram.isfinite().all() or not torch.allclose(gram, gram.T, rtol=1e-5, atol=1e-12 * gram.abs().max().item()):
        raise ValueError("gram must be finite and symmetric")
    gram = (gram + gram.T) / (2 * gram.abs().max().clamp_min(torch.finfo(gram.dtype).tiny))
    count, corner = len(gram), int(gram.diagonal().argmin())
    best, least = torch.eye(count, dtype=torch.float64)[corner], gram[corner, corner].item()
    for faces in torch.arange(1, 2**count).split(_AT_A_TIME):
        inside = (faces[:, None] >> torch.arange(count) & 1).double()
        weights = _inside(gram, inside)
        values = torch.einsum("nj,jk,nk->n", weights, gram, weights)
        values = values.where(weights.isfinite().all(1) & (weights >= 0).all(1), torch.inf)
        place = int(values.argmin())
        if values[place] < least:
            best, least = weights[place], values[place].item()
    return best


def _inside(gram: Tensor, inside: Tensor) -> Tensor:
    """The w of sum 1 with G_SS·w = μ·1 of each face, a row of `inside` [N, K] of 0 and 1: [N, K], NaN where none is."""
    faces = inside[:, :, None] * gram * inside[:, None, :] + torch.diag_embed(1 - inside)
    border = torch.cat((inside, torch.zeros(len(inside), 1, dtype=inside.dtype)), 1)
    equations = torch.cat((torch.cat((faces, inside[:, :, None]), 2), border[:, None, :]), 1)
    sums = torch.zeros_like(border)
    sums[:, -1] = 1
    solved, singular = torch.linalg.solve_ex(equations, sums)
    return torch.where((singular != 0)[:, None], torch.nan, solved[:, :-1])

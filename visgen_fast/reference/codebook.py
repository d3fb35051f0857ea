"""What a codebook learns from a batch, in plain PyTorch: the definition the compiled kernels are held to.

Codebooks follow the vectors they are assigned by an exponential moving average of counts and sums (van den Oord et al.,
"Neural discrete representation learning", 2017, appendix A.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .quantize import codebook_of, embeddings_of

__all__ = ["codebook_statistics"]


def codebook_statistics(x: Tensor, codes: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """counts [Q, K] of the residuals r_q with each code, and their sums [Q, K, D].

    Residuals with NaN or infinity count nowhere.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    size, dimensions = codebooks.shape[-2:]
    residual = x.detach().to(dtype).reshape(math.prod(x.shape[:-1]), dimensions)
    counts, sums = [], []
    for q, code in enumerate(codes.reshape(len(residual), codes.shape[-1]).unbind(-1)):
        counted = (code >= 0) & residual.isfinite().all(-1)
        where, rows = code[counted], residual[counted]
        counts.append(torch.bincount(where, minlength=size).to(dtype))
        sums.append(rows.new_zeros(size, dimensions).index_add(0, where, rows))
        residual = residual - embeddings_of(codebook_of(codebooks, q).detach().to(dtype), code)
    if not counts:
        return residual.new_zeros(0, size), residual.new_zeros(0, size, dimensions)
    return torch.stack(counts), torch.stack(sums)

"""What codebooks learn from the vectors assigned to them, deterministically: the family `codebook`."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import gate, register_fake
from .quantize import as_codebooks, as_rows, check_codebooks, check_codes

__all__ = ["codebook_statistics"]

runs_reference = gate("codebook")


def codebook_statistics(x: Tensor, codes: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """How many residuals each code stands for, and their sums: what an exponential moving average needs.

    Args:
        x: [..., D], the vectors that were quantized, of any floating-point type.
        codes: int64 [..., Q], as `residual_quantize` gives them; −1 counts nowhere.
        codebooks: [Q, K, D] or [K, D], those that x was quantized with.

    Returns:
        counts: [Q, K] float32 (float64 for float64 x).
        sums: [Q, K, D] of the same type, of the residuals r_q that came to depth q.

    Both without gradient, and the same bits in every run, with any number of threads. Residuals with NaN or infinity
    count nowhere. TypeError or ValueError for an argument that does not fit; RuntimeError for a code outside [−1, K),
    which on a GPU, where raising would take a synchronisation, counts nowhere.

    Source: van den Oord et al., "Neural discrete representation learning", 2017, appendix A.1.
    """
    check_codes(codes)
    check_codebooks(codebooks, x, codes.shape[-1])
    if codes.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"codes must be [{', '.join(map(str, x.shape[:-1]))}, Q], got {list(codes.shape)}")
    check.device(codes, "codes", x.device, "x")
    x, codebooks = x.detach(), codebooks.detach()
    if runs_reference(x, codes, codebooks):
        return reference.codebook_statistics(x, codes, codebooks)
    return torch.ops.visgen_fast.codebook_statistics(as_rows(x), as_rows(codes), as_codebooks(codebooks, x))


register_fake(
    "codebook_statistics",
    lambda x, codes, codebooks: tuple(codebooks.new_empty((codes.shape[1], *codebooks.shape[1:n])) for n in (2, 3)),
)

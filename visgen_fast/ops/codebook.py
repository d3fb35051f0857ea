"""What codebooks learn from the vectors assigned to them, deterministically: the family `codebook`."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._dispatch import check_tensor, runs_reference
from .quantize import as_codebooks, as_rows, check_codebooks, check_codes

__all__ = ["codebook_statistics"]

_library = torch.ops.visgen_fast


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
    count nowhere.

    Raises:
        TypeError, ValueError: an argument does not fit the above.
        RuntimeError: a code is not in [−1, K). On a GPU, where raising would take a synchronisation, it counts nowhere.

    Source: van den Oord et al., "Neural discrete representation learning", 2017, appendix A.1.
    """
    check_tensor(x, "x")
    check_codes(codes)
    if x.dim() < 1 or not x.is_floating_point():
        raise ValueError(f"x must be floating-point [..., D], got {x.dtype} of shape {list(x.shape)}")
    if codes.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"codes must be [{', '.join(map(str, x.shape[:-1]))}, Q], got {list(codes.shape)}")
    if codes.device != x.device:
        raise ValueError(f"codes must be on {x.device}, the device of x, got {codes.device}")
    check_codebooks(codebooks, x, codes.shape[-1])
    x, codebooks = x.detach(), codebooks.detach()
    if runs_reference(x, codes, codebooks):
        return reference.codebook_statistics(x, codes, codebooks)
    rows = as_rows(x)
    columns = codes.reshape(rows.shape[0], codes.shape[-1]).contiguous()
    return _library.codebook_statistics(rows, columns, as_codebooks(codebooks, x))


@torch.library.register_fake("visgen_fast::codebook_statistics")
def _(x, codes, codebooks):
    depth, (size, dimensions) = codes.shape[1], codebooks.shape[1:]
    return codebooks.new_empty((depth, size)), codebooks.new_empty((depth, size, dimensions))

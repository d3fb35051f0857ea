"""Finite scalar quantization, codes without a table from rounding to levels: the family `finite_scalar`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import differentiable, gate, register_fake, run

__all__ = ["finite_scalar_decode", "finite_scalar_quantize"]

runs_reference = gate("finite_scalar")

_BOUNDS = ("atanh", "tan", "symmetric")  # numbered like this in the schemas
_MOST_LEVELS, MOST_BITS = 1000, 62  # of a dimension, of a code: it stays below 2^62


def finite_scalar_quantize(x: Tensor, levels: Sequence[int], *, bound: str = "atanh") -> tuple[Tensor, Tensor]:
    """Finite scalar quantization (FSQ): each dimension is bounded by tanh and rounded to one of its levels.

        bounded   = tanh(x + shift)·half − offset
        quantized = round(bounded) / ⌊L/2⌋,    codes = Σ_d (round(bounded_d) + ⌊L_d/2⌋)·Π_{e<d} L_e

    Args:
        x: [..., D], up to 8 dimensions; float32, bfloat16, float16 or float64.
        levels: D numbers of levels, each from 2 to 1000, with a product below 2^62.
        bound: what tanh is stretched to, and how an even number of levels L gets a level at zero (offset ½, else 0):
            "atanh": half = (L−1)(1+ε)/2, shift = atanh(offset/half), as vector-quantize-pytorch has it;
            "tan": half = (L−1)(1−ε)/2, shift = tan(offset/half), as the paper's authors published it;
            "symmetric": half = (L−1)/2, no shift, levels 2k/(L−1) − 1 by rounding half up; none of them is zero where L
            is even. ε is 0.001. For two levels take "symmetric": the others put the border far from zero.

    Returns:
        quantized [..., D] in x's dtype and memory layout, from −1 to 1, and codes [...], int64, the first dimension
        least significant. A row with NaN has code 0 and NaN for quantized. The gradient goes straight through the
        rounding and is that of `bounded` / ⌊L/2⌋. TypeError or ValueError for an argument that does not fit.

    Source: Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023, section 3.1 and appendix A.1; Parker
    et al., "Scaling transformers for low-bitrate high-quality speech coding", 2024, section 3.2 ("symmetric").
    """
    check_rows(x)
    levels = checked_levels(levels, bound)
    if len(levels) != x.shape[-1]:
        raise ValueError(f"levels must have one number for each of the {x.shape[-1]} columns of x, got {len(levels)}")
    if runs_reference(x):
        return reference.finite_scalar_quantize(x, levels, bound=bound)
    return run("finite_scalar_quantize", x, levels, check.one_of(bound, "bound", _BOUNDS))


def finite_scalar_decode(
    codes: Tensor, levels: Sequence[int], *, bound: str = "atanh", dtype: torch.dtype = torch.float32
) -> Tensor:
    """The vectors that codes of `finite_scalar_quantize` stand for.

    Args:
        codes: [...], int64, up to 7 dimensions; a number that is no code becomes NaN.
        levels, bound: as given to `finite_scalar_quantize` ("atanh" and "tan" have the same vectors).
        dtype: of the result: float32, bfloat16, float16 or float64.

    Returns:
        [..., D], bit for bit what `finite_scalar_quantize` returned in that dtype. Errors as there.
    """
    levels = checked_levels(levels, bound)
    check_codes(codes, dtype)
    if runs_reference(codes):
        return reference.finite_scalar_decode(codes, levels, bound=bound, dtype=dtype)
    return torch.ops.visgen_fast.finite_scalar_decode(
        codes.contiguous(), levels, check.one_of(bound, "bound", _BOUNDS), dtype
    )


def checked_levels(levels: Sequence[int], bound: str) -> list[int]:
    check.one_of(bound, "bound", _BOUNDS)
    levels = check.integers(levels, "levels")
    if not levels or not all(2 <= count <= _MOST_LEVELS for count in levels):
        raise ValueError(f"levels must be one or more integers from 2 to {_MOST_LEVELS}, got {levels}")
    if math.prod(levels) >= 2**MOST_BITS:
        raise ValueError(f"levels must have a product below 2**{MOST_BITS}, got {math.prod(levels)}")
    return levels


def check_rows(x: Any) -> None:
    check.floats(x, "x")
    if not 1 <= x.dim() <= 8 or not 1 <= x.shape[-1] <= MOST_BITS:
        raise ValueError(
            f"x must be [..., D] with 1 to 8 dimensions and D from 1 to {MOST_BITS}, got the shape {list(x.shape)}"
        )


def check_codes(codes: Any, dtype: torch.dtype) -> None:
    check.tensor(codes, "codes")
    if codes.dtype != torch.int64 or codes.dim() > 7:
        raise ValueError(f"codes must be int64 with up to 7 dimensions, got {codes.dtype} of shape {list(codes.shape)}")
    check.float_type(dtype, "dtype")


register_fake(
    "finite_scalar_quantize", lambda x, *_: (torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.int64))
)
differentiable(
    "finite_scalar_quantize",
    definition=lambda x, levels, bound: reference.finite_scalar_quantize(x, levels, bound=_BOUNDS[bound])[:1],
    inputs=("x",),
)
register_fake("finite_scalar_decode", lambda c, levels, _, dtype: c.new_empty((*c.shape, len(levels)), dtype=dtype))

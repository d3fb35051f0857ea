"""Finite scalar quantization in plain PyTorch: the definition the compiled kernels are held to.

Each dimension is rounded to a few levels (Mentzer et al., 2309.15505); the code is the index in their product. A row
with NaN has code 0, and NaN for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["finite_scalar_decode", "finite_scalar_quantize"]

_EPSILON = 1e-3  # by which a bound reaches beyond the outermost levels, or stays within


def finite_scalar_quantize(x: Tensor, levels: Sequence[int], *, bound: str = "atanh") -> tuple[Tensor, Tensor]:
    """Each dimension bounded by tanh and rounded to one of its levels: (quantized, codes)."""
    value = x.to(torch.promote_types(x.dtype, torch.float32))
    columns = [_bound(count, bound) for count in levels]
    shift, half, offset, lowest = torch.tensor(columns, dtype=value.dtype, device=x.device).unbind(-1)
    bounded = torch.tanh(value + shift) * half - offset
    index = (torch.floor(bounded + 0.5) if bound == "symmetric" else torch.round(bounded)).detach() - lowest
    step, origin = _grid(levels, bound, value)
    gradient = step / origin * bounded
    quantized = (step * index - origin) / origin + (gradient - gradient.detach())
    basis = torch.tensor([math.prod(levels[:d]) for d in range(len(levels))], dtype=torch.int64, device=x.device)
    invalid = x.isnan().any(-1)
    codes = (index.nan_to_num().long() * basis).sum(-1).masked_fill(invalid, 0)
    return (quantized + _poison(invalid, value)[..., None]).to(x.dtype), codes


def finite_scalar_decode(
    codes: Tensor, levels: Sequence[int], *, bound: str = "atanh", dtype: torch.dtype = torch.float32
) -> Tensor:
    """The vectors [..., D] of codes; a code that is none of theirs becomes NaN."""
    digits, rest = [], codes
    for count in levels:
        digits.append(rest % count)
        rest = rest // count
    index = torch.stack(digits, -1).to(torch.promote_types(dtype, torch.float32))
    step, origin = _grid(levels, bound, index)
    vectors = (step * index - origin) / origin
    return vectors.masked_fill((rest != 0)[..., None], math.nan).to(dtype)


def _bound(levels: int, bound: str) -> tuple[float, float, float, int]:
    """(shift, half, offset, lowest): tanh(x + shift)·half − offset, rounded, is an integer from `lowest` on."""
    if bound == "symmetric":
        return 0.0, (levels - 1) / 2, -(levels - 1) / 2, 0
    half = (levels - 1) * (1 + (_EPSILON if bound == "atanh" else -_EPSILON)) / 2
    offset = 0.0 if levels % 2 else 0.5
    return (math.atanh if bound == "atanh" else math.tan)(offset / half), half, offset, -(levels // 2)


def _grid(levels: Sequence[int], bound: str, like: Tensor) -> tuple[int, Tensor]:
    """(step, origin): level k of a dimension stands at (step·k − origin) / origin."""
    origin = [count - 1 if bound == "symmetric" else count // 2 for count in levels]
    return 2 if bound == "symmetric" else 1, torch.tensor(origin, dtype=like.dtype, device=like.device)


def _poison(invalid: Tensor, like: Tensor) -> Tensor:
    """NaN where invalid, else 0: added, it changes no gradient."""
    return torch.zeros_like(invalid, dtype=like.dtype).masked_fill(invalid, math.nan)

"""Finite scalar quantization as a module."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import finite_scalar_decode, finite_scalar_quantize
from ..ops.finite_scalar import checked_levels
from .quantized import Quantized
from .scalar_quantizer import ScalarQuantizer


class FSQ(ScalarQuantizer):
    """Each of D dimensions rounded to one of levels[d] levels, see `visgen_fast.ops.finite_scalar_quantize`.

    The loss is 0. Levels of the paper: (8, 6, 5) for 2⁸ codes, (8, 5, 5, 5) for 2¹⁰, (7, 5, 5, 5, 5) for 2¹², (8, 8, 8,
    6, 5) for 2¹⁴, (8, 8, 8, 5, 5, 5) for 2¹⁶, each about as many. ValueError for arguments that the operation refuses.

    Source: Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023.
    """

    def __init__(self, levels: Sequence[int], *, bound: str = "atanh") -> None:
        levels = checked_levels(levels, bound)
        super().__init__(len(levels), math.prod(levels))
        self.levels, self.bound = tuple(levels), bound

    def quantize(self, x: Tensor) -> Quantized:
        quantized, codes = finite_scalar_quantize(x, self.levels, bound=self.bound)
        return Quantized(
            quantized, codes[..., None], x.new_zeros(x.shape[:-1], dtype=torch.promote_types(x.dtype, torch.float32))
        )

    def vectors(self, codes: Tensor) -> Tensor:
        return finite_scalar_decode(codes, self.levels, bound=self.bound)

"""What every quantizer returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Quantized(NamedTuple):
    """Vectors, their codes, and what to add to the loss.

    quantized: [..., D], type of the quantizer's input; differentiates into it as the quantizer says.
    codes: int64 [..., Q], Q the quantizer's depth; −1 where a depth was dropped.
    loss: [...] float32 (float64 for float64), one weighted number a vector; the loss of training adds its mean.
    """

    quantized: Tensor
    codes: Tensor
    loss: Tensor

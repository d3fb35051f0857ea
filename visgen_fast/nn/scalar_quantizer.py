"""What quantizers that round each dimension by itself have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..ops.quantize import check_codes
from .quantized import Quantized
from .quantizer import Quantizer
from .side_effects import is_transformed


class ScalarQuantizer(Quantizer):
    """A quantizer of one depth, whose codes need no table: it has no state but the count of its codes."""

    def __init__(self, dimensions: int, size: int) -> None:
        super().__init__(dimensions, 1, size)

    def forward(self, x: Tensor, *, seeds: Tensor | None = None, active_depths: Tensor | None = None) -> Quantized:
        """x [B, ..., D] quantized; nothing is random. ValueError for `active_depths`: there is one depth."""
        self.check(x)
        if active_depths is not None:
            raise ValueError("active_depths must be None: this quantizer has one depth")
        result = self.quantize(x)
        self.count(result.codes)
        return result

    def decode(self, codes: Tensor) -> Tensor:
        """The vectors [..., D] of codes int64 [..., 1], 0 for −1 and for codes [..., 0].

        ValueError for more than one depth, RuntimeError for a code outside [−1, K). Such a code's vector is NaN where
        raising would take a synchronisation, on a GPU, in a compiled graph and under `torch.func`'s transforms.
        """
        check_codes(codes)
        if codes.shape[-1] > 1:
            raise ValueError(f"codes must be [..., 1] or [..., 0]: there is one depth, got {list(codes.shape)}")
        if not codes.shape[-1]:
            return self.vectors(codes.new_zeros(codes.shape[:-1])).zero_()
        if codes.device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed():
            if ((codes < -1) | (codes >= self.size)).any():
                raise RuntimeError(f"codes must lie in [-1, {self.size}), got {codes.min()} to {codes.max()}")
        nothing = codes == -1
        return torch.where(nothing, 0, self.vectors(codes.masked_fill(nothing, 0)[..., 0]))

    @abstractmethod
    def quantize(self, x: Tensor) -> Quantized:
        """x [B, ..., D] quantized."""

    @abstractmethod
    def vectors(self, codes: Tensor) -> Tensor:
        """The vectors [..., D] of codes [...]."""

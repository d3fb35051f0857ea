"""What quantizers that round each dimension by itself have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from .quantized import Quantized
from .quantizer import Quantizer


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
        codes = F.pad(codes, (0, 1 - codes.shape[-1]), value=-1)
        return torch.where(codes >= 0, self.vectors(codes[..., 0].clamp_min(0)), 0)

    @abstractmethod
    def quantize(self, x: Tensor) -> Quantized:
        """x [B, ..., D] quantized."""

    @abstractmethod
    def vectors(self, codes: Tensor) -> Tensor:
        """The vectors [..., D] of codes [...]."""

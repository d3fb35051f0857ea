"""Binary spherical quantization as a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import binary_decode, binary_spherical_quantize
from ..ops.binary_quantize import checked_binary
from .quantized import Quantized
from .quantizer import check_weights
from .scalar_quantizer import ScalarQuantizer


class BSQ(ScalarQuantizer):
    """Vectors on the unit sphere replaced by ±1/√bits per dimension, see `visgen_fast.ops.binary_spherical_quantize`.

        loss = w·(γ₀·H[p(c | u)] − γ·H[mean p(c | u)]) + β·‖u − q‖²,   u = z / ‖z‖

    Args:
        bits: D; there are 2^D codes.
        inverse_temperature, group_size: as in the operation; the batch is this rank's vectors of one forward.
        entropy_weight: w; entropies enter the loss in training mode only.
        confidence, diversity: γ₀ and γ.
        commitment_weight: β.

    ValueError for a weight that is negative or not finite, and for arguments that the operation refuses.

    Source: Zhao et al., "Image and video tokenization with binary spherical quantization", 2024, sections 4.1 and 4.2.
    """

    def __init__(
        self,
        bits: int,
        *,
        inverse_temperature: float = 1.0,
        group_size: int | None = 9,
        entropy_weight: float = 0.1,
        confidence: float = 1.0,
        diversity: float = 1.0,
        commitment_weight: float = 0.0,
    ) -> None:
        checked_binary(bits, 1.0, inverse_temperature, group_size, entropy_weight > 0)
        check_weights(entropy_weight=entropy_weight, confidence=confidence, diversity=diversity)
        check_weights(commitment_weight=commitment_weight)
        super().__init__(bits, 2**bits)
        self.inverse_temperature, self.group_size = inverse_temperature, group_size
        self.entropy_weight, self.commitment_weight = entropy_weight, commitment_weight
        self.confidence, self.diversity = confidence, diversity

    def quantize(self, x: Tensor) -> Quantized:
        quantized, codes, per_sample, batch = binary_spherical_quantize(
            x,
            inverse_temperature=self.inverse_temperature,
            group_size=self.group_size,
            entropy=self.training and self.entropy_weight > 0,
        )
        on_sphere = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        loss = self.commitment_weight * (on_sphere - quantized.detach()).square().sum(-1)
        if per_sample is not None and batch is not None:
            loss = loss + self.entropy_weight * (self.confidence * per_sample - self.diversity * batch)
        return Quantized(quantized, codes[..., None], loss)

    def vectors(self, codes: Tensor) -> Tensor:
        return binary_decode(codes, self.dimensions, scale=1 / math.sqrt(self.dimensions))

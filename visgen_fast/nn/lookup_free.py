"""Lookup-free quantization as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import binary_decode, lookup_free_quantize
from ..ops.binary_quantize import checked_binary
from .quantized import Quantized
from .quantizer import check_weights
from .scalar_quantizer import ScalarQuantizer


class LookupFree(ScalarQuantizer):
    """Each of `bits` dimensions replaced by ±scale, see `visgen_fast.ops.lookup_free_quantize`.

        loss = w·(H[p(c | z)] − γ·H[mean p(c | z)]) + β·mean (z − q)²

    which wants vectors that are sure of their code and a batch that uses all codes.

    Args:
        bits: D; there are 2^D codes.
        scale, inverse_temperature, group_size: as in the operation; the batch is this rank's vectors of one forward.
        entropy_weight: w; entropies enter the loss in training mode only.
        diversity: γ.
        commitment_weight: β.

    ValueError for a weight that is negative or not finite, and for arguments that the operation refuses.

    Source: Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023, section 3.2.
    """

    def __init__(
        self,
        bits: int,
        *,
        scale: float = 1.0,
        inverse_temperature: float = 100.0,
        group_size: int | None = None,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        commitment_weight: float = 0.25,
    ) -> None:
        checked_binary(bits, scale, inverse_temperature, group_size, entropy_weight > 0)
        check_weights(entropy_weight=entropy_weight, diversity=diversity, commitment_weight=commitment_weight)
        super().__init__(bits, 2**bits)
        self.scale, self.inverse_temperature, self.group_size = scale, inverse_temperature, group_size
        self.entropy_weight, self.diversity, self.commitment_weight = entropy_weight, diversity, commitment_weight

    def quantize(self, x: Tensor) -> Quantized:
        quantized, codes, per_sample, batch = lookup_free_quantize(
            x,
            scale=self.scale,
            inverse_temperature=self.inverse_temperature,
            group_size=self.group_size,
            entropy=self.training and self.entropy_weight > 0,
        )
        z = x.to(torch.promote_types(x.dtype, torch.float32))
        loss = self.commitment_weight * (z - quantized.detach()).square().mean(-1)
        if per_sample is not None and batch is not None:
            loss = loss + self.entropy_weight * (per_sample - self.diversity * batch)
        return Quantized(quantized, codes[..., None], loss)

    def vectors(self, codes: Tensor) -> Tensor:
        return binary_decode(codes, self.dimensions, scale=self.scale)

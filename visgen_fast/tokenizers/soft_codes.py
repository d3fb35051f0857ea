"""Codes as distributions: how near each code of a residual quantizer's is.

Lee et al., "Autoregressive image generation using residual quantization", 2022, section 3.2.3 and equation 12.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops


def soft_codes(
    x: Tensor, codebooks: Tensor, *, depth: int, temperature: float, seeds: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The codes of x [B, …, D], and at each depth softmax(−‖r − e_k‖²/temperature) of what the codes before left of x.

    Args:
        x: floating-point.
        codebooks: [Q, K, D], or [K, D] for one that all depths share.
        depth: Q.
        temperature: above 0.
        seeds: int64 [B]: codes are drawn from these distributions; without seeds they are the nearest.

    Returns:
        codes int64 [B, …, Q], probabilities float32 [B, …, Q, K].
    """
    residual, codes, probabilities = x.float(), [], []
    for q in range(depth):
        codebook = (codebooks if codebooks.dim() == 2 else codebooks[q]).float()
        rows = residual.flatten(0, -2)
        distance = torch.addmm(codebook.square().sum(1), rows, codebook.T, alpha=-2)  # but for ‖r‖², which all have
        logits = (-distance / temperature).view(*x.shape[:-1], -1)
        if seeds is None:
            code = ops.nearest_code(residual, codebook)
        else:
            drawn = ops.sample_tokens(logits, seeds, stream=ops.Purpose.CODE.stream(q))
            assert isinstance(drawn, Tensor)  # no log-probability was asked for
            code = drawn
        residual = residual - codebook[code]
        codes.append(code)
        probabilities.append(logits.softmax(-1))
    return torch.stack(codes, -1), torch.stack(probabilities, -2)

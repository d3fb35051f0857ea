"""Lookup-free and binary spherical quantization in plain PyTorch: the definition the compiled kernels are held to.

Each dimension keeps its sign (Yu et al., 2310.05737; on the unit sphere Zhao et al., 2406.07548); the signs are the
code's bits. A row with NaN has code 0, and NaN for everything else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["binary_decode", "binary_spherical_quantize", "lookup_free_quantize"]


def lookup_free_quantize(
    x: Tensor,
    *,
    scale: float = 1.0,
    inverse_temperature: float = 100.0,
    group_size: int | None = None,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """±scale by x > 0: (quantized, codes, per_sample_entropy, batch_entropy)."""
    return _binary_quantize(
        x.to(torch.promote_types(x.dtype, torch.float32)), scale, inverse_temperature, group_size, entropy, x.dtype
    )


def binary_spherical_quantize(
    x: Tensor,
    *,
    scale: float = 1.0,
    inverse_temperature: float = 1.0,
    group_size: int | None = 9,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`lookup_free_quantize` on the sphere of radius `scale`: the same, of x / ‖x‖, to ±scale / √D."""
    value = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = value.detach().abs().amax(-1, keepdim=True)
    # A power of two, so that no square overflows and nothing is rounded.
    unit = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent.clamp_min(0))
    scaled = unit * value
    # The root of a square that is held above 0, so that derivatives of any order are numbers for a vector of zeros too.
    on_sphere = scale * scaled / scaled.square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt()
    corner = scale / math.sqrt(x.shape[-1])
    return _binary_quantize(on_sphere, corner, inverse_temperature, group_size, entropy, x.dtype)


def binary_decode(codes: Tensor, bits: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The vectors [..., bits] of ±scale, most significant bit first; a code outside [0, 2^bits) becomes NaN."""
    shifts = torch.arange(bits - 1, -1, -1, device=codes.device)
    signs = (codes[..., None] >> shifts & 1) * 2 - 1
    vectors = signs.to(torch.promote_types(dtype, torch.float32)) * scale
    return vectors.masked_fill((codes >> bits != 0)[..., None], math.nan).to(dtype)


def _binary_quantize(
    value: Tensor,
    corner: float,
    inverse_temperature: float,
    group_size: int | None,
    entropy: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    bits = value.shape[-1]
    positive, invalid = value > 0, value.isnan().any(-1)
    poison = _poison(invalid, value)
    signs = (positive.to(value.dtype) * 2 - 1) * corner
    quantized = (signs + (value - value.detach()).nan_to_num() + poison[..., None]).to(dtype)
    basis = 2 ** torch.arange(bits - 1, -1, -1, device=value.device)
    codes = (positive * basis).sum(-1).masked_fill(invalid, 0)
    if not entropy:
        return quantized, codes, None, None
    # A soft assignment exp(−τ·‖value − code‖²) over all codes, normalised, chooses each bit by itself.
    logits = (4 * inverse_temperature * corner * value).clamp(-1000, 1000)
    per_sample = -(logits.sigmoid() * torch.nn.functional.logsigmoid(logits))
    per_sample = per_sample - (-logits).sigmoid() * torch.nn.functional.logsigmoid(-logits)
    groups = logits.reshape(-1, bits).split(group_size or bits, -1)
    batch = torch.stack([_entropy(_code_probabilities(group)) for group in groups]).sum()
    return quantized, codes, per_sample.sum(-1) + poison, batch


def _code_probabilities(logits: Tensor) -> Tensor:
    """Of each of the 2^g codes of g bits, most significant first: [N, g] to the mean [2^g] over the samples."""
    probability = torch.ones_like(logits[:, :1])
    for logit in logits.unbind(-1):
        bit = torch.stack(((-logit).sigmoid(), logit.sigmoid()), -1)
        probability = (probability[:, :, None] * bit[:, None]).flatten(1)
    return probability.sum(0) / max(len(probability), 1)


def _entropy(probability: Tensor) -> Tensor:
    """In nats; 0·log 0 is 0, and so is its gradient."""
    return -(probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()).sum()


def _poison(invalid: Tensor, like: Tensor) -> Tensor:
    """NaN where invalid, else 0: added, it changes no gradient."""
    return torch.zeros_like(invalid, dtype=like.dtype).masked_fill(invalid, math.nan)

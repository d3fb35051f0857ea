"""Codes without a table, in plain PyTorch: the definition the compiled kernels are held to.

Finite scalar quantization (Mentzer et al., 2309.15505) rounds each dimension to a few levels; lookup-free (Yu et al.,
2310.05737) and binary spherical quantization (Zhao et al., 2406.07548) keep its sign. The code is the index in the
product of the dimensions' levels. A row with NaN has code 0, and NaN for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-3  # by which a bound reaches beyond the outermost levels, or stays within


def finite_scalar_quantize(x: Tensor, levels: Sequence[int], *, bound: str = "atanh") -> tuple[Tensor, Tensor]:
    """Each dimension bounded by tanh and rounded to one of its levels: (quantized, codes)."""
    value = _arithmetic(x)
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
    index = torch.stack(digits, -1).to(torch.float64 if dtype == torch.float64 else torch.float32)
    step, origin = _grid(levels, bound, index)
    vectors = (step * index - origin) / origin
    return vectors.masked_fill((rest != 0)[..., None], math.nan).to(dtype)


def lookup_free_quantize(
    x: Tensor,
    *,
    scale: float = 1.0,
    inverse_temperature: float = 100.0,
    group_size: int | None = None,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """±scale by x > 0: (quantized, codes, per_sample_entropy, batch_entropy)."""
    return _binary_quantize(_arithmetic(x), scale, inverse_temperature, group_size, entropy, x.dtype)


def binary_spherical_quantize(
    x: Tensor,
    *,
    scale: float = 1.0,
    inverse_temperature: float = 1.0,
    group_size: int | None = 9,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`lookup_free_quantize` on the sphere of radius `scale`: the same, of x / ‖x‖, to ±scale / √D."""
    on_sphere = scale * torch.nn.functional.normalize(_arithmetic(x), dim=-1)
    corner = scale / math.sqrt(x.shape[-1])
    return _binary_quantize(on_sphere, corner, inverse_temperature, group_size, entropy, x.dtype)


def binary_decode(codes: Tensor, bits: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The vectors [..., bits] of ±scale, most significant bit first; a code outside [0, 2^bits) becomes NaN."""
    shifts = torch.arange(bits - 1, -1, -1, device=codes.device)
    signs = (codes[..., None] >> shifts & 1) * 2 - 1
    vectors = signs.to(torch.float64 if dtype == torch.float64 else torch.float32) * scale
    return vectors.masked_fill((codes >> bits != 0)[..., None], math.nan).to(dtype)


def _arithmetic(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _poison(invalid: Tensor, like: Tensor) -> Tensor:
    """NaN where invalid, else 0: added, it changes no gradient."""
    return torch.zeros_like(invalid, dtype=like.dtype).masked_fill(invalid, math.nan)


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

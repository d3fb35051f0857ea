"""Codes without a table, from rounding each dimension of a vector: the family `scalar_quantize`.

Nothing of size (vectors × codes) ever exists, entropies of the soft assignment to all codes included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ._derivatives import differentiate, differentiate_backward
from ._dispatch import FLOATS, check_tensor, runs_reference

__all__ = [
    "binary_decode",
    "binary_spherical_quantize",
    "finite_scalar_decode",
    "finite_scalar_quantize",
    "lookup_free_quantize",
]

_library = torch.ops.visgen_fast
_BOUNDS = ("atanh", "tan", "symmetric")  # numbered like this in the schemas
_MOST_BITS, _MOST_LEVELS, _MOST_GROUP_BITS = 62, 1000, 20


def finite_scalar_quantize(x: Tensor, levels: Sequence[int], *, bound: str = "atanh") -> tuple[Tensor, Tensor]:
    """Finite scalar quantization (FSQ): each dimension is bounded by tanh and rounded to one of its levels.

        bounded   = tanh(x + shift)·half − offset
        quantized = round(bounded) / ⌊L/2⌋,    codes = Σ_d (round(bounded_d) + ⌊L_d/2⌋)·Π_{e<d} L_e

    Args:
        x: [..., D], up to 8 dimensions; float32, bfloat16, float16 or float64.
        levels: D numbers of levels, each from 2 to 1000, with a product below 2^62.
        bound: what tanh is stretched to, and how an even number of levels L gets a level at zero (offset ½, else 0):
            "atanh": half = (L−1)(1+ε)/2, shift = atanh(offset/half), as vector-quantize-pytorch has it;
            "tan": half = (L−1)(1−ε)/2, shift = tan(offset/half), as the paper's authors published it;
            "symmetric": half = (L−1)/2, no shift, levels 2k/(L−1) − 1 by rounding half up; none of them is zero where L
            is even. ε is 0.001. For two levels take "symmetric": the others put the border far from zero.

    Returns:
        quantized [..., D] in x's dtype and memory layout, from −1 to 1, and codes [...], int64, the first dimension
        least significant. A row with NaN has code 0 and NaN for quantized. Arithmetic is float32 inside, float64 for
        float64 x; autocast leaves the operation as it is.

    The gradient goes straight through the rounding and is that of `bounded` / ⌊L/2⌋; second derivatives are right; a
    forward-mode tangent or `torch.func.vmap` runs `visgen_fast.reference.finite_scalar_quantize`.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023, section 3.1 and appendix A.1; Parker
    et al., "Scaling transformers for low-bitrate high-quality speech coding", 2024, section 3.2 ("symmetric").
    """
    _check_rows(x)
    levels = checked_levels(levels, bound)
    if len(levels) != x.shape[-1]:
        raise ValueError(f"levels must have one number for each of the {x.shape[-1]} columns of x, got {len(levels)}")
    if runs_reference(x):
        return reference.finite_scalar_quantize(x, levels, bound=bound)
    return _library.finite_scalar_quantize(x, levels, _BOUNDS.index(bound))


def finite_scalar_decode(
    codes: Tensor, levels: Sequence[int], *, bound: str = "atanh", dtype: torch.dtype = torch.float32
) -> Tensor:
    """The vectors that codes of `finite_scalar_quantize` stand for.

    Args:
        codes: [...], int64, up to 7 dimensions; a number that is no code becomes NaN.
        levels, bound: as given to `finite_scalar_quantize` ("atanh" and "tan" have the same vectors).
        dtype: of the result: float32, bfloat16, float16 or float64.

    Returns:
        [..., D], bit for bit what `finite_scalar_quantize` returned in that dtype.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: as `finite_scalar_quantize`.
    """
    levels = checked_levels(levels, bound)
    _check_codes(codes, dtype)
    if runs_reference(codes):
        return reference.finite_scalar_decode(codes, levels, bound=bound, dtype=dtype)
    return _library.finite_scalar_decode(codes.contiguous(), levels, _BOUNDS.index(bound), dtype)


def lookup_free_quantize(
    x: Tensor,
    *,
    scale: float = 1.0,
    inverse_temperature: float = 100.0,
    group_size: int | None = None,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Lookup-free quantization (LFQ): each dimension becomes ±scale, and the D signs are a code of D bits.

    The entropies are of a soft assignment of x to all 2^D codes c ∈ {±scale}^D,

        p(c | x) ∝ exp(−τ·‖x − c‖²),    a bit is set with probability sigmoid(4·τ·scale·x_d),

    and a loss that wants confident, diverse codes is `(per_sample_entropy.mean() − γ·batch_entropy)·weight`.

    Args:
        x: [..., D], up to 8 dimensions, D ≤ 62; float32, bfloat16, float16 or float64.
        scale: the codes' magnitude; 2^−q at depth q of residual LFQ.
        inverse_temperature: τ.
        group_size: how many consecutive bits share a distribution in `batch_entropy`, up to 20, the last group taking
            what is left; None: all D bits, so that nothing is approximated. Time and memory grow with 2^group_size.
        entropy: False spares the entropies, which are None then.

    Returns:
        quantized: [..., D] in x's dtype and memory layout: scale where x > 0, else −scale (so zero becomes −scale).
        codes: [...], int64, the first dimension most significant.
        per_sample_entropy: [...], in nats, of p(· | x): exact, as it is the sum over the bits' entropies.
        batch_entropy: a scalar, in nats: of the mean of p over all rows, summed over the groups; an upper bound of the
            whole code's where there are several.
        Entropies are float32, or float64 where x is. A row with NaN has code 0, and NaN for everything else.

    The gradient of `quantized` goes straight through to x (0 where x is infinite), that of the entropies is exact;
    second derivatives are right; a forward-mode tangent or `torch.func.vmap` runs the reference. Autocast leaves the
    operation as it is.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023, section 3.2.
    Values are vector-quantize-pytorch's but for its lower limit of 1e-5 on the probabilities within logarithms.
    """
    _check_rows(x)
    arguments = checked_binary(x.shape[-1], scale, inverse_temperature, group_size, entropy)
    if runs_reference(x):
        return reference.lookup_free_quantize(
            x, scale=scale, inverse_temperature=inverse_temperature, group_size=group_size, entropy=entropy
        )
    return _binary_quantize(x, *arguments, False, entropy)


def binary_spherical_quantize(
    x: Tensor,
    *,
    scale: float = 1.0,
    inverse_temperature: float = 1.0,
    group_size: int | None = 9,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Binary spherical quantization (BSQ): `lookup_free_quantize` of u = scale·x / ‖x‖, to ±scale / √D.

    Arguments, results and errors are those of `lookup_free_quantize`, with u in the place of x and scale / √D in that
    of scale: a bit is set with probability sigmoid(4·τ·scale·u_d / √D). Norms below 1e-12 count as that; a row that
    holds an infinity counts as one with NaN. Gradients go through the normalisation.

    Source: Zhao et al., "Image and video tokenization with binary spherical quantization", 2024, sections 4.1 and 4.2.
    """
    _check_rows(x)
    arguments = checked_binary(x.shape[-1], scale, inverse_temperature, group_size, entropy)
    if runs_reference(x):
        return reference.binary_spherical_quantize(
            x, scale=scale, inverse_temperature=inverse_temperature, group_size=group_size, entropy=entropy
        )
    return _binary_quantize(x, *arguments, True, entropy)


def binary_decode(codes: Tensor, bits: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The vectors of ±scale that codes of `lookup_free_quantize` stand for.

    Args:
        codes: [...], int64, up to 7 dimensions; a number outside [0, 2^bits) becomes NaN.
        bits: D, from 1 to 62; the first dimension is the most significant bit.
        scale: the magnitude; for codes of `binary_spherical_quantize` its scale / √D.
        dtype: of the result: float32, bfloat16, float16 or float64.

    Returns:
        [..., bits].

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: as `lookup_free_quantize`.
    """
    if not 1 <= bits <= _MOST_BITS:
        raise ValueError(f"bits must lie in [1, {_MOST_BITS}], got {bits}")
    _check_codes(codes, dtype)
    if runs_reference(codes):
        return reference.binary_decode(codes, bits, scale=scale, dtype=dtype)
    return _library.binary_decode(codes.contiguous(), bits, scale, dtype)


def _check_rows(x: Tensor) -> None:
    check_tensor(x, "x")
    if x.dtype not in FLOATS:
        raise ValueError(f"x must be float32, bfloat16, float16 or float64, got {x.dtype}")
    if not 1 <= x.dim() <= 8 or not 1 <= x.shape[-1] <= _MOST_BITS:
        raise ValueError(
            f"x must be [..., D] with 1 to 8 dimensions and D from 1 to {_MOST_BITS}, got the shape {list(x.shape)}"
        )


def checked_levels(levels: Sequence[int], bound: str) -> list[int]:
    if bound not in _BOUNDS:
        raise ValueError(f"bound must be one of {', '.join(_BOUNDS)}, got {bound!r}")
    levels = list(levels)
    if not levels or not all(isinstance(count, int) and 2 <= count <= _MOST_LEVELS for count in levels):
        raise ValueError(f"levels must be one or more integers from 2 to {_MOST_LEVELS}, got {levels}")
    if math.prod(levels) >= 2**_MOST_BITS:
        raise ValueError(f"levels must have a product below 2**{_MOST_BITS}, got {math.prod(levels)}")
    return levels


def _check_codes(codes: Tensor, dtype: torch.dtype) -> None:
    check_tensor(codes, "codes")
    if codes.dtype != torch.int64 or codes.dim() > 7:
        raise ValueError(f"codes must be int64 with up to 7 dimensions, got {codes.dtype} of shape {list(codes.shape)}")
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be float32, bfloat16, float16 or float64, got {dtype}")


def checked_binary(
    bits: int, scale: float, inverse_temperature: float, group_size: int | None, entropy: bool
) -> tuple[float, float, int]:
    """The compiled operation's arguments after x, which has `bits` columns, up to `spherical`."""
    if not 1 <= bits <= _MOST_BITS:
        raise ValueError(f"bits must lie in [1, {_MOST_BITS}], got {bits}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if not inverse_temperature > 0:
        raise ValueError(f"inverse_temperature must be positive, got {inverse_temperature}")
    if group_size is not None and not 1 <= group_size <= _MOST_GROUP_BITS:
        raise ValueError(f"group_size must lie in [1, {_MOST_GROUP_BITS}] or be None, got {group_size}")
    if group_size is None and entropy and bits > _MOST_GROUP_BITS:
        raise ValueError(
            f"group_size must be given for the entropies of more than {_MOST_GROUP_BITS} bits, since they are of the "
            f"distribution over all codes of a group: there are {bits}"
        )
    return float(scale), float(inverse_temperature), min(group_size or bits, bits, _MOST_GROUP_BITS)


def _binary_quantize(
    x: Tensor, scale: float, inverse_temperature: float, group_size: int, spherical: bool, entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    quantized, codes, per_sample, batch, _ = _library.binary_quantize(
        x, scale, inverse_temperature, group_size, spherical, entropy
    )
    return (quantized, codes, per_sample, batch) if entropy else (quantized, codes, None, None)


def _arithmetic(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.register_fake("visgen_fast::finite_scalar_quantize")
def _(x, levels, bound):
    return torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.int64)


@torch.library.register_fake("visgen_fast::finite_scalar_quantize_backward")
def _(grad_quantized, x, levels, bound):
    return torch.empty_like(x)


@torch.library.register_fake("visgen_fast::finite_scalar_decode")
def _(codes, levels, bound, dtype):
    return codes.new_empty((*codes.shape, len(levels)), dtype=dtype)


@torch.library.register_fake("visgen_fast::binary_quantize")
def _(x, scale, inverse_temperature, group_size, spherical, entropy):
    real, bits = _arithmetic(x), x.shape[-1]
    return (
        torch.empty_like(x),
        x.new_empty(x.shape[:-1], dtype=torch.int64),
        x.new_empty(x.shape[:-1] if entropy else (0,), dtype=real),
        x.new_empty(() if entropy else (0,), dtype=real),
        x.new_empty((-(-bits // group_size) if entropy else 0, 2**group_size), dtype=real),
    )


@torch.library.register_fake("visgen_fast::binary_quantize_backward")
def _(grad_quantized, grad_per_sample, grad_batch, x, surprisal, scale, inverse_temperature, group_size, spherical):
    return torch.empty_like(x)


@torch.library.register_fake("visgen_fast::binary_decode")
def _(codes, bits, scale, dtype):
    return codes.new_empty((*codes.shape, bits), dtype=dtype)


def _finite_definition(levels, bound):
    """`finite_scalar_quantize` in plain PyTorch, what can be differentiated of it."""
    return lambda x: reference.finite_scalar_quantize(x, levels, bound=_BOUNDS[bound])[:1]


def _save_finite(ctx, inputs, output):
    x, ctx.levels, ctx.bound = inputs
    ctx.save_for_backward(x)
    ctx.set_materialize_grads(False)


def _finite_backward(ctx, grad_quantized, _):
    (x,) = ctx.saved_tensors
    if grad_quantized is None:
        return None, None, None
    if runs_reference(x, grad_quantized):
        (to_x,) = differentiate(_finite_definition(ctx.levels, ctx.bound), (grad_quantized,), (x,))
    else:
        to_x = _library.finite_scalar_quantize_backward(grad_quantized, x, ctx.levels, ctx.bound)
    return to_x, None, None


def _save_finite_backward(ctx, inputs, output):
    grad_quantized, x, ctx.levels, ctx.bound = inputs
    ctx.save_for_backward(grad_quantized, x)


def _finite_second_backward(ctx, upstream):
    grad_quantized, x = ctx.saved_tensors
    definition = _finite_definition(ctx.levels, ctx.bound)
    (to_incoming,), (to_x,) = differentiate_backward(definition, (grad_quantized,), (x,), (upstream,))
    return to_incoming, to_x, None, None


def _binary_definition(scale, inverse_temperature, group_size, spherical):
    """The same of `binary_quantize`."""
    quantize = reference.binary_spherical_quantize if spherical else reference.lookup_free_quantize

    def definition(x):
        quantized, _, per_sample, batch = quantize(
            x, scale=scale, inverse_temperature=inverse_temperature, group_size=group_size
        )
        return quantized, per_sample, batch

    return definition


def _save_binary(ctx, inputs, output):
    x, *ctx.options, _ = inputs
    ctx.save_for_backward(x, output[-1])
    ctx.set_materialize_grads(False)


def _binary_backward(ctx, grad_quantized, _, grad_per_sample, grad_batch, __):
    x, surprisal = ctx.saved_tensors
    incoming = (grad_quantized, grad_per_sample, grad_batch)
    to_x = None
    if all(g is None for g in incoming):
        pass
    elif runs_reference(x, *incoming):
        (to_x,) = differentiate(_binary_definition(*ctx.options), incoming, (x,))
    else:
        if grad_per_sample is not None:
            incoming = (grad_quantized, grad_per_sample.contiguous(), grad_batch)
        to_x = _library.binary_quantize_backward(*incoming, x, surprisal, *ctx.options)
    return to_x, *(None,) * 5


def _save_binary_backward(ctx, inputs, output):
    *incoming, x, _, scale, inverse_temperature, group_size, spherical = inputs
    ctx.save_for_backward(*incoming, x)
    ctx.options = scale, inverse_temperature, group_size, spherical
    ctx.set_materialize_grads(False)


def _binary_second_backward(ctx, upstream):
    *incoming, x = ctx.saved_tensors
    definition = _binary_definition(*ctx.options)
    to_incoming, (to_x,) = differentiate_backward(definition, incoming, (x,), (upstream,))
    return *to_incoming, to_x, *(None,) * 5


for _name, _function, _save in (
    ("finite_scalar_quantize", _finite_backward, _save_finite),
    ("finite_scalar_quantize_backward", _finite_second_backward, _save_finite_backward),
    ("binary_quantize", _binary_backward, _save_binary),
    ("binary_quantize_backward", _binary_second_backward, _save_binary_backward),
):
    torch.library.register_autograd(f"visgen_fast::{_name}", _function, setup_context=_save)

"""Lookup-free and binary spherical quantization, whose codes are signs: the family `binary_quantize`.

Nothing of size (vectors × codes) ever exists, entropies of the soft assignment to all codes included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import differentiable, gate, register_fake, run
from .finite_scalar import MOST_BITS, check_codes, check_rows

__all__ = ["binary_decode", "binary_spherical_quantize", "lookup_free_quantize"]

runs_reference = gate("binary_quantize")

_MOST_GROUP_BITS = 20


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
        Entropies are float32, or float64 where x is. A row with NaN has code 0, and NaN for everything else. TypeError
        or ValueError for an argument that does not fit.

    The gradient of `quantized` goes straight through to x (0 where x is infinite), that of the entropies is exact.

    Source: Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023, section 3.2.
    Values are vector-quantize-pytorch's but for its lower limit of 1e-5 on the probabilities within logarithms.
    """
    return _quantize(reference.lookup_free_quantize, x, scale, inverse_temperature, group_size, entropy)


def binary_spherical_quantize(
    x: Tensor, *, scale: float = 1.0, inverse_temperature: float = 1.0, group_size: int | None = 9, entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Binary spherical quantization (BSQ): `lookup_free_quantize` of u = scale·x / ‖x‖, to ±scale / √D.

    Arguments, results and errors are those of `lookup_free_quantize`, with u in the place of x and scale / √D in that
    of scale: a bit is set with probability sigmoid(4·τ·scale·u_d / √D). Norms below 1e-12 count as that; a row that
    holds an infinity counts as one with NaN. Gradients go through the normalisation.

    Source: Zhao et al., "Image and video tokenization with binary spherical quantization", 2024, sections 4.1 and 4.2.
    """
    return _quantize(reference.binary_spherical_quantize, x, scale, inverse_temperature, group_size, entropy)


def binary_decode(codes: Tensor, bits: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The vectors of ±scale that codes of `lookup_free_quantize` stand for.

    Args:
        codes: [...], int64, up to 7 dimensions; a number outside [0, 2^bits) becomes NaN.
        bits: D, from 1 to 62; the first dimension is the most significant bit.
        scale: the magnitude; for codes of `binary_spherical_quantize` its scale / √D.
        dtype: of the result: float32, bfloat16, float16 or float64.

    Returns:
        [..., bits]. TypeError or ValueError for an argument that does not fit.
    """
    check.integer(bits, "bits", 1, MOST_BITS)
    check.number(scale, "scale")
    check_codes(codes, dtype)
    if runs_reference(codes):
        return reference.binary_decode(codes, bits, scale=scale, dtype=dtype)
    return torch.ops.visgen_fast.binary_decode(codes.contiguous(), bits, scale, dtype)


def checked_binary(
    bits: int, scale: float, inverse_temperature: float, group_size: int | None, entropy: bool
) -> tuple[float, float, int]:
    """The compiled operation's arguments after x, which has `bits` columns, up to `spherical`."""
    check.integer(bits, "bits", 1, MOST_BITS)
    check.number(scale, "scale", positive=True)
    check.number(inverse_temperature, "inverse_temperature", positive=True)
    if group_size is not None:
        check.integer(group_size, "group_size", 1, _MOST_GROUP_BITS, " or be None")
    elif entropy and bits > _MOST_GROUP_BITS:
        raise ValueError(
            f"group_size must be given for the entropies of more than {_MOST_GROUP_BITS} bits, since they are of the "
            f"distribution over all codes of a group: there are {bits}"
        )
    return float(scale), float(inverse_temperature), min(group_size or bits, bits, _MOST_GROUP_BITS)


def _quantize(definition, x, scale, inverse_temperature, group_size, entropy):
    check_rows(x)
    arguments = checked_binary(x.shape[-1], scale, inverse_temperature, group_size, entropy)
    if runs_reference(x):
        options = {"scale": scale, "inverse_temperature": inverse_temperature, "group_size": group_size}
        return definition(x, **options, entropy=entropy)
    spherical = definition is reference.binary_spherical_quantize
    *results, _ = run("binary_quantize", x, *arguments, spherical, bool(entropy))
    return tuple(results) if entropy else (*results[:2], None, None)


def _fake(x, scale, inverse_temperature, group_size, spherical, entropy):
    real, rows = torch.promote_types(x.dtype, torch.float32), x.shape[:-1]
    shapes = [rows, (), (-(-x.shape[-1] // group_size), 2**group_size)] if entropy else [0, 0, (0, 2**group_size)]
    codes = x.new_empty(rows, dtype=torch.int64)
    return torch.empty_like(x), codes, *(x.new_empty(shape, dtype=real) for shape in shapes)


def _definition(x, surprisal, scale, inverse_temperature, group_size, spherical):
    quantize = reference.binary_spherical_quantize if spherical else reference.lookup_free_quantize
    results = quantize(x, scale=scale, inverse_temperature=inverse_temperature, group_size=group_size)
    return results[0], *results[2:]


register_fake("binary_quantize", _fake)
differentiable("binary_quantize", definition=_definition, inputs=("x",), contiguous=("grad_per_sample_entropy",))
register_fake("binary_decode", lambda codes, bits, scale, dtype: codes.new_empty((*codes.shape, bits), dtype=dtype))

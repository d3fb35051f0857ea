"""What stands between the matrix products of a diffusion transformer: the family `modulate`.

A gated residual and the modulated norm of it read each tensor once and write each once, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import differentiable, gate, register_fake, run

__all__ = ["adaptive_instance_norm", "gated_residual_norm", "modulated_norm"]

runs_reference = gate("modulate")

_NORMS = ("layer", "rms")  # numbered like this in the schemas
_MOST_DIMENSIONS = 8

Modulation = Tensor | tuple[Tensor, Tensor] | None


def modulated_norm(
    x: Tensor,
    scale: Modulation,
    shift: Modulation = None,
    *,
    norm: str = "layer",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The norm of each row of x, modulated: y = norm(x)·(1 + scale) + shift.

    A row is what lies along the last dimension. norm(x) is (x − mean) / √(variance + eps) for "layer", the variance
    being taken about the mean, and x / √(mean of x² + eps) for "rms"; then times weight, plus bias, where given.

    Args:
        x: [B, …, D], 1 to 8 dimensions; float32, bfloat16, float16 or float64.
        scale, shift: broadcastable to x, or [B, D], which means [B, 1, …, D]; None is 0. Either may be a pair of such
            tensors, as (table, embedding), whose sum it is. Any floating-point type, any strides: slices of one
            projection are read where they lie. What has one number a row, [B, …, 1], works too.
        norm: "layer" or "rms".
        weight, bias: [D].
        eps: positive.

    Returns:
        y, of x's shape, type and memory layout; arithmetic is float32, or float64 where x is, under autocast too.
        Gradients flow into all tensors. Those of what several rows share are sums, added up in an order that sizes
        alone decide. A row with NaN is NaN in all of y; the "layer" norm of equal numbers is 0.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Ba et al., "Layer normalization", 2016; Zhang and Sennrich, "Root mean square layer normalization", 2019;
    Peebles and Xie, "Scalable diffusion models with transformers", 2023, section 3.2 (adaLN).
    """
    _check_rows(x)
    modulations = [*_modulation(scale, "scale", x), *_modulation(shift, "shift", x)]
    options = _options(x, norm, weight, bias, eps)
    if runs_reference(x, *modulations, weight, bias):
        return reference.modulated_norm(x, scale, shift, norm=norm, weight=weight, bias=bias, eps=eps)
    return run("modulated_norm", x, *modulations, *options)[0]


def gated_residual_norm(
    x: Tensor,
    branch: Tensor,
    gate: Modulation,
    scale: Modulation,
    shift: Modulation = None,
    *,
    norm: str = "layer",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """The residual x + gate·branch, and the modulated norm of it for the next branch.

    Args:
        x: [B, …, D], 1 to 8 dimensions; float32, bfloat16, float16 or float64.
        branch: of x's shape, any of these types.
        gate: as scale; None is 1.
        scale, shift, norm, weight, bias, eps: as in `modulated_norm`.

    Returns:
        (x + gate·branch, modulated_norm of it), both of x's shape, type and memory layout. What is normalized is the
        residual as it is returned. For the gradients, inputs, the residual, means and deviations are kept, nothing
        else; the rest as in `modulated_norm`.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Peebles and Xie, "Scalable diffusion models with transformers", 2023, section 3.2 (adaLN-Zero).
    """
    _check_rows(x)
    check.floats(branch, "branch")
    if branch.shape != x.shape:
        raise ValueError(f"branch must have the shape of x, {list(x.shape)}, got {list(branch.shape)}")
    check.device(branch, "branch", x.device, "x")
    given = {"gate": gate, "scale": scale, "shift": shift}
    modulations = [tensor for name, value in given.items() for tensor in _modulation(value, name, x)]
    options = _options(x, norm, weight, bias, eps)
    if runs_reference(x, branch, *modulations, weight, bias):
        return reference.gated_residual_norm(x, branch, **given, norm=norm, weight=weight, bias=bias, eps=eps)
    return run("gated_residual_norm", x, branch, *modulations, *options)[:2]


def adaptive_instance_norm(x: Tensor, scale: Tensor | None, shift: Tensor | None, *, eps: float = 1e-5) -> Tensor:
    """Each channel of each sample normalized over its space, then modulated: norm(x)·(1 + scale) + shift.

    Args:
        x: [B, C, *space], 3 to 9 dimensions; float32, bfloat16, float16 or float64. Fastest where space is contiguous.
        scale, shift: [B, C], any floating-point type; None is 0.
        eps: positive.

    Returns:
        Of x's shape and type. Gradients, precision and errors as in `modulated_norm`.

    Source: Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", 2017,
    eq. 8; Karras et al., "A style-based generator architecture for generative adversarial networks", 2019, eq. 1.
    """
    check.floats(x, "x")
    if not 3 <= x.dim() <= _MOST_DIMENSIONS + 1:
        raise ValueError(f"x must be [B, C, *space] with 3 to {_MOST_DIMENSIONS + 1} dimensions, got {list(x.shape)}")
    of_rows: list[Tensor | None] = []
    for name, value in (("scale", scale), ("shift", shift)):
        if value is None:
            of_rows.append(None)
            continue
        check.floats(value, name)
        if value.shape != x.shape[:2]:
            raise ValueError(f"{name} must be [B, C], {list(x.shape[:2])}, got {list(value.shape)}")
        of_rows.append(value[..., None])
    return modulated_norm(x.flatten(2), *of_rows, eps=eps).reshape(x.shape)


def _check_rows(x: Any) -> None:
    check.floats(x, "x")
    if not 1 <= x.dim() <= _MOST_DIMENSIONS:
        raise ValueError(f"x must be [B, …, D] with 1 to {_MOST_DIMENSIONS} dimensions, got the shape {list(x.shape)}")


def _modulation(value: Any, name: str, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What was given, and the table beside it where that was a pair."""
    pair: tuple[Any, ...] = (None, value)
    if isinstance(value, tuple | list):
        pair = tuple(value)
        if len(pair) != 2:
            raise ValueError(f"{name} must be a tensor or a pair of them, got {len(pair)}")
        for part in pair:
            _check_modulation(part, name, x)
    elif value is not None:
        _check_modulation(value, name, x)
    table, embedding = pair
    return embedding, table


def _check_modulation(value: Any, name: str, x: Tensor) -> None:
    check.floats(value, name)
    check.device(value, name, x.device, "x")
    shape = list(value.shape)
    if len(shape) == 2 and x.dim() > 2:
        shape[1:1] = [1] * (x.dim() - 2)
    fits = len(shape) <= x.dim()
    fits = fits and all(s in (1, n) for s, n in zip(reversed(shape), reversed(x.shape), strict=False))
    if not fits:
        raise ValueError(
            f"{name} must be broadcastable to x, {list(x.shape)}, or be [{x.shape[0]}, {x.shape[-1]}] for each sample, "
            f"got {list(value.shape)}"
        )


def _options(x: Tensor, norm: str, weight: Any, bias: Any, eps: float) -> tuple:
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        check.floats(value, name)
        check.device(value, name, x.device, "x")
        if value.shape != x.shape[-1:]:
            raise ValueError(f"{name} must be [{x.shape[-1]}], the last dimension of x, got {list(value.shape)}")
    check.number(eps, "eps", positive=True)
    return weight, bias, check.one_of(norm, "norm", _NORMS), float(eps)


def _pair(value: Tensor | None, table: Tensor | None) -> Modulation:
    return value if table is None else (table, value)  # type: ignore[return-value]


def _definition(
    x, scale, scale_table, shift, shift_table, weight, bias, mean, inverse_deviation, norm, eps
) -> tuple[Tensor, ...]:
    """`modulated_norm` in plain PyTorch, from what is kept for its backward."""
    modulations = _pair(scale, scale_table), _pair(shift, shift_table)
    return (reference.modulated_norm(x, *modulations, norm=_NORMS[norm], weight=weight, bias=bias, eps=eps),)


def _gated_definition(
    x, branch, gate, gate_table, scale, scale_table, shift, shift_table, weight, bias, residual, mean,
    inverse_deviation, norm, eps,
) -> tuple[Tensor, ...]:  # fmt: skip
    modulations = _pair(gate, gate_table), _pair(scale, scale_table), _pair(shift, shift_table)
    return reference.gated_residual_norm(x, branch, *modulations, norm=_NORMS[norm], weight=weight, bias=bias, eps=eps)


def _fake(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *_, norm, _ = arguments
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean = x.new_empty(x.shape[:-1] if _NORMS[norm] == "layer" else (0,), dtype=dtype)
    return torch.empty_like(x), mean, x.new_empty(x.shape[:-1], dtype=dtype)


register_fake("modulated_norm", _fake)
register_fake("gated_residual_norm", lambda x, *others: (torch.empty_like(x), *_fake(x, *others)))
_MODULATED = ("scale", "scale_table", "shift", "shift_table", "weight", "bias")
_SHIFTS = {"shift": "grad_y", "shift_table": "grad_y"}
differentiable("modulated_norm", definition=_definition, inputs=("x", *_MODULATED), added=_SHIFTS)
differentiable(
    "gated_residual_norm",
    definition=_gated_definition,
    inputs=("x", "branch", "gate", "gate_table", *_MODULATED),
    added=_SHIFTS,
)

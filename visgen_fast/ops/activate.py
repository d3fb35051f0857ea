"""What stands inside the feed-forward part of a transformer, between its two matrix products: the family `activate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import differentiable, gate, register_fake, run

__all__ = ["activate", "gated_activate"]

runs_reference = gate("activate")

_KINDS = ("gelu_tanh", "gelu", "silu")  # numbered like this in the schemas
_GATED = {"swiglu": "silu", "geglu": "gelu"}
_MOST_DIMENSIONS = 8


def activate(x: Tensor, kind: str = "gelu_tanh", bias: Tensor | None = None) -> Tensor:
    """An activation of each number: y = a(x + bias).

    Args:
        x: [..., D], 1 to 8 dimensions; float32, bfloat16, float16 or float64.
        kind: "gelu" is x·Φ(x), with the distribution function Φ of normal numbers; "gelu_tanh" its approximation
            x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2; "silu" is x·σ(x), also known as swish.
        bias: [D], any floating-point type; None is 0. It is that of the matrix product before, which then needs none.

    Returns:
        y, of x's shape, type and memory layout; arithmetic is float32, or float64 where x is, under autocast too.
        The gradient of the bias is made in the same pass, and is the same bits on any number of threads.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Hendrycks and Gimpel, "Gaussian error linear units", 2016, section 2; Elfwing et al., "Sigmoid-weighted
    linear units for neural network function approximation in reinforcement learning", 2018.
    """
    _check(x, bias)
    number = check.one_of(kind, "kind", _KINDS)
    if runs_reference(x, bias):
        return reference.activate(x, kind, bias)
    return run("activate", x, bias, number)


def gated_activate(x: Tensor, kind: str = "swiglu", bias: Tensor | None = None, *, gate: str = "first") -> Tensor:
    """One half of the columns, activated, times the other: y = a(gate + its bias)·(value + its bias).

    Args:
        x: [..., 2·H], 1 to 8 dimensions; float32, bfloat16, float16 or float64.
        kind: "swiglu" activates by silu, "geglu" by gelu, as `activate` has them.
        bias: [2·H], any floating-point type; None is 0.
        gate: which half of the columns is activated: "first", as in LLaMA and DINOv2, or "second", as in diffusers.

    Returns:
        [..., H], of x's type; gradients and precision as of `activate`.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Shazeer, "GLU variants improve transformer", 2020, equation 6.
    """
    _check(x, bias)
    if x.shape[-1] % 2:
        raise ValueError(f"x must have an even number of columns, two halves, got the shape {list(x.shape)}")
    check.one_of(kind, "kind", tuple(_GATED))
    halves = check.one_of(gate, "gate", ("first", "second"))
    if runs_reference(x, bias):
        return reference.gated_activate(x, kind, bias, gate=gate)
    return run("gated_activate", x, bias, _KINDS.index(_GATED[kind]), halves == 0)


def _check(x: Any, bias: Any) -> None:
    check.floats(x, "x")
    if not 1 <= x.dim() <= _MOST_DIMENSIONS:
        raise ValueError(f"x must be [..., D] with 1 to {_MOST_DIMENSIONS} dimensions, got the shape {list(x.shape)}")
    if bias is None:
        return
    check.floats(bias, "bias")
    check.device(bias, "bias", x.device, "x")
    if bias.shape != x.shape[-1:]:
        raise ValueError(f"bias must be [{x.shape[-1]}], the last dimension of x, got {list(bias.shape)}")


def _definition(x: Tensor, bias: Tensor | None, kind: int) -> tuple[Tensor, ...]:
    return (reference.activate(x, _KINDS[kind], bias),)


def _gated_definition(x: Tensor, bias: Tensor | None, kind: int, gate_first: bool) -> tuple[Tensor, ...]:
    names = {activation: name for name, activation in _GATED.items()}
    return (reference.gated_activate(x, names[_KINDS[kind]], bias, gate="first" if gate_first else "second"),)


register_fake("activate", lambda x, bias, kind: torch.empty_like(x))
register_fake("gated_activate", lambda x, bias, kind, gate_first: torch.empty_like(x.narrow(-1, 0, x.shape[-1] // 2)))
differentiable("activate", definition=_definition, inputs=("x", "bias"))
differentiable("gated_activate", definition=_gated_definition, inputs=("x", "bias"))

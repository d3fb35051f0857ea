"""How the contract calls an operation of a case: outputs, gradients, the same call in float64 or with given noise."""

from __future__ import annotations

import torch
from cases import Case
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from visgen_fast import ops


def outputs(module, case: Case, arguments: dict) -> list[Tensor]:
    return tree_leaves(getattr(module, case.operation)(**arguments))


def real_outputs(module, case: Case, arguments: dict) -> list[Tensor]:
    """Without the integer ones, which have no derivative."""
    return [out for out in outputs(module, case, arguments) if out.is_floating_point()]


def with_given_noise(arguments: dict) -> dict:
    """The same call with the noise that its seeds make on this backend: what is left is arithmetic.

    Draws of codes stay as they are.
    """
    arguments = dict(arguments)
    if arguments.get("seeds") is not None and "x" in arguments:
        dtype = torch.float64 if arguments["x"].dtype == torch.float64 else torch.float32
        arguments["noise"] = ops.gaussian(
            arguments.pop("seeds"), arguments["x"].shape[1:], stream=arguments.pop("stream"), dtype=dtype
        )
    return arguments


def in_float64(arguments: dict) -> dict:
    """The same call in float64, pixels mapped to −1…1: what is true."""

    def exact(value):
        if isinstance(value, Tensor) and value.dtype == torch.uint8:
            return value.double() / 127.5 - 1
        return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value

    result = tree_map(exact, arguments)
    return {**result, **{name: torch.float64 for name in ("dtype", "out_dtype") if name in result}}


def leaves(case: Case, arguments: dict) -> dict:
    """The arguments, those that can be differentiated as leaves that require a gradient (their layout kept)."""
    return {
        name: value.detach().requires_grad_() if name in case.differentiable else value
        for name, value in arguments.items()
    }


def gradients(module, case: Case, arguments: dict, upstream: list[Tensor]) -> dict[str, Tensor]:
    arguments = leaves(case, arguments)
    result = real_outputs(module, case, arguments)
    inputs = [arguments[name] for name in case.differentiable]
    # What depends on no input, or is made a constant on purpose, has no gradient to compare.
    pairs = [(out, g.to(out.dtype)) for out, g in zip(result, upstream, strict=True) if out.requires_grad]
    found = torch.autograd.grad([out for out, _ in pairs], inputs, [g for _, g in pairs], materialize_grads=True)
    return dict(zip(case.differentiable, found, strict=True))

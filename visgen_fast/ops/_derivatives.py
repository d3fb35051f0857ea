"""Derivatives that no kernel computes, once for every family: the reference is differentiated instead.

So it is for second derivatives, which differentiate the compiled backward, and for first ones whose gradients carry a
forward-mode tangent or a `torch.func.vmap` dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor | None]
Definition = Callable[..., tuple[Tensor, ...]]


def differentiate(definition: Definition, incoming: Tensors, inputs: Tensors) -> list[Tensor | None]:
    """Gradients of `definition` into `inputs`, given those of its outputs; plain PyTorch, so differentiable further.

    A None among `incoming` stands for zero; None and integer tensors among `inputs` have no gradient.
    """
    outputs, values = _of_differentiable(definition, inputs)
    to_values = torch.func.vjp(outputs, *values.values())[1](_filled(incoming, outputs, values))
    return _at_places(values, to_values, len(inputs))


def differentiate_backward(
    definition: Definition, incoming: Tensors, inputs: Tensors, upstream: Tensors
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients into (incoming, inputs) of the map (incoming, inputs) to the gradients of `definition` at `inputs`.

    Args:
        definition: plain PyTorch, from `inputs` to the operation's outputs.
        incoming: gradients of those outputs, as the backward operation received them.
        inputs: of the operation; None and integer tensors have no gradient.
        upstream: gradients of the backward operation's results, one for each input.

    A None among `incoming` or `upstream` stands for zero. What is returned is plain PyTorch, so it can be
    differentiated further.
    """
    outputs, values = _of_differentiable(definition, inputs)

    def backward(gradients: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.func.vjp(outputs, *values)[1](gradients)

    given = ((value, upstream[place]) for place, value in values.items())
    directions = tuple(torch.zeros_like(value) if direction is None else direction for value, direction in given)
    gradients = _filled(incoming, outputs, values)
    to_gradients, to_values = torch.func.vjp(backward, gradients, tuple(values.values()))[1](directions)
    to_incoming = [None if g is None else d for g, d in zip(incoming, to_gradients, strict=True)]
    return to_incoming, _at_places(values, to_values, len(inputs))


def _of_differentiable(definition: Definition, inputs: Tensors) -> tuple[Definition, dict[int, Tensor]]:
    """The definition as a function of the floating-point inputs alone, and those by their places."""
    values = {i: value for i, value in enumerate(inputs) if value is not None and value.is_floating_point()}

    def outputs(*replacements: Tensor) -> tuple[Tensor, ...]:
        replaced = dict(zip(values, replacements, strict=True))
        return definition(*(replaced.get(i, value) for i, value in enumerate(inputs)))

    return outputs, values


def _filled(incoming: Tensors, outputs: Definition, values: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """The incoming gradients, zeros for None."""
    with torch.no_grad():
        shapes = outputs(*values.values())
    return tuple(torch.zeros_like(s) if g is None else g for g, s in zip(incoming, shapes, strict=True))


def _at_places(values: dict[int, Tensor], gradients: Sequence[Tensor], count: int) -> list[Tensor | None]:
    by_place = dict(zip(values, gradients, strict=True))
    return [by_place.get(i) for i in range(count)]

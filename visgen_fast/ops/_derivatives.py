"""Second derivatives, once for every family: the compiled backward is differentiated through the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor | None]


def differentiate_backward(
    definition: Callable[..., tuple[Tensor, ...]], incoming: Tensors, inputs: Tensors, upstream: Tensors
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
    chosen = {i: value for i, value in enumerate(inputs) if value is not None and value.is_floating_point()}
    values = tuple(chosen.values())

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        replaced = dict(zip(chosen, values, strict=True))
        return definition(*(replaced.get(i, value) for i, value in enumerate(inputs)))

    def backward(gradients: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.func.vjp(outputs, *values)[1](gradients)

    with torch.no_grad():
        shapes = outputs(*values)
    gradients = tuple(torch.zeros_like(s) if g is None else g for g, s in zip(incoming, shapes, strict=True))
    directions = tuple(torch.zeros_like(v) if upstream[i] is None else upstream[i] for i, v in chosen.items())
    to_gradients, to_values = torch.func.vjp(backward, gradients, values)[1](directions)

    to_inputs = dict(zip(chosen, to_values, strict=True))
    to_incoming = [None if g is None else d for g, d in zip(incoming, to_gradients, strict=True)]
    return to_incoming, [to_inputs.get(i) for i in range(len(inputs))]

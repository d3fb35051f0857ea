"""A step of an optimizer over lists of tensors, and the norm of a gradient: the family `optimize`.

A step is called once for all parameters of a model, so the kernel checks its arguments: Python looks at them after it
refused. What is written has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import gate, register_fake

__all__ = ["adamw_", "gradient_norm"]

runs_reference = gate("optimize")

_adamw = torch.ops.visgen_fast.adamw_.default
_norm = torch.ops.visgen_fast.gradient_norm.default
_NAMES = ("parameters", "gradients", "means", "squares", "averages")
_GRADIENTS = 1  # the list that is read alone


@torch.no_grad()
def adamw_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    *,
    averages: Sequence[Tensor] | None = None,
    learning_rate: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    step: float | Tensor,
    average_decay: float | Tensor | None = None,
    gradient_scale: float | Tensor | None = None,
) -> None:
    """AdamW's step and the moving average of the parameters, in place: each tensor is read once and written once.

        g         = gradient_scale·gradient
        mean      ← β₁·mean + (1 − β₁)·g
        square    ← β₂·square + (1 − β₂)·g²
        parameter ← (1 − rate·weight_decay)·parameter − rate·m̂/(√v̂ + eps), m̂ = mean/(1 − β₁^step), v̂ likewise
        average   ← average_decay·average + (1 − average_decay)·parameter

    Arithmetic is float32 inside, float64 for float64 parameters. One element costs its reads and writes, 36 bytes in
    float32: clipping by `gradient_scale`, decay and average are free.

    Args:
        parameters: tensors of any shapes; float32, bfloat16, float16 or float64; not empty.
        gradients, means, squares, averages: as many, each of its parameter's shape; floating point, of any types. What
            is written shares no memory with any other tensor of the lists, nor lies in its gaps; gradients may share
            theirs. Where layouts differ or have gaps, the definition runs.
        learning_rate: at least 0. This and the next three are numbers, or tensors of no dimensions on the parameters'
            device, which are read there: a CUDA graph may change them between replays.
        step: how many steps there have been, this one included; at least 1.
        average_decay: in [0, 1]; must be given with `averages`.
        gradient_scale: multiplies the gradients; by default 1. A tensor that is not finite leaves everything as it is,
            as a loss scaler does after an overflow.
        betas: each in [0, 1).
        eps, weight_decay: at least 0.

    Raises:
        TypeError, ValueError: an argument does not fit the above, in one sentence. Nothing was changed then.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """
    lists = _lists(parameters, gradients, means, squares, averages)
    numbers: list[Any] = [learning_rate, *_pair(betas), eps, weight_decay, step, average_decay, gradient_scale]
    _check_numbers(*numbers, averaged=bool(lists[4]))
    numbers[6:] = [0.0 if average_decay is None else average_decay, 1.0 if gradient_scale is None else gradient_scale]
    if not lists[0]:
        raise ValueError("parameters must not be empty")
    check.tensor(lists[0][0], "parameters[0]")
    changing = None
    if any(isinstance(number, Tensor) for number in numbers):
        changing = _on_device(numbers, lists[0][0])
        numbers = [math.nan if isinstance(number, Tensor) else number for number in numbers]
    on_kernel = not runs_reference(*lists[0])
    call = [float(number) for number in numbers], changing
    try:
        if on_kernel:
            return _adamw(*lists, *call)
    except (RuntimeError, TypeError):
        pass
    _check_lists(*lists)
    given = numbers if changing is None else changing.tolist()
    for group, fits in _groups(lists):
        _adamw(*group, *call) if on_kernel and fits else _by_definition(group, given)
    return None


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The root of the sum of squares of all elements of all tensors, the same bits in every run.

    Args:
        gradients: tensors of any shapes on one device; float32, bfloat16, float16 or float64; not empty.

    Returns:
        a tensor of no dimensions on their device, float64 if the first of them is, else float32. Squares are added in
        float64. To clip at `most`, give `adamw_` a `gradient_scale` of `(most / (norm + 1e-6)).clamp(max=1)`: nothing
        waits for the device. Gradients flow through the definition.

    Raises:
        TypeError, ValueError: an argument does not fit the above.
    """
    tensors = _list(gradients, "gradients")
    if not tensors:
        raise ValueError("gradients must not be empty")
    wants_gradient = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
    try:
        if not wants_gradient and not runs_reference(*tensors):
            return _norm(tensors)
    except (AttributeError, RuntimeError, TypeError):
        pass
    for i, tensor in enumerate(tensors):
        _check_tensor(tensor, f"gradients[{i}]", tensors[0])
    return reference.gradient_norm(tensors)


def _pair(betas: Any) -> tuple[float, float]:
    if not check.is_pair(betas):
        raise TypeError(f"betas must be a pair of numbers, got {betas!s:.80}")
    return betas


def _list(values: Any, name: str) -> list[Tensor]:
    if isinstance(values, Tensor) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of tensors, got {type(values).__name__}")
    return values if isinstance(values, list) else list(values)


def _lists(*values: Any) -> tuple[list[Tensor], ...]:
    lists = tuple([] if v is None else _list(v, name) for v, name in zip(values, _NAMES, strict=True))
    for given, name in zip(lists[1:], _NAMES[1:], strict=True):
        if len(given) != len(lists[0]) and (given or name != "averages"):
            raise ValueError(f"{name} must be as many as parameters, {len(lists[0])}, got {len(given)}")
    return lists


def _check_numbers(
    learning_rate: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    weight_decay: Any,
    step: Any,
    average_decay: Any,
    gradient_scale: Any,
    *,
    averaged: bool,
) -> None:
    for beta in (beta1, beta2):
        if not 0 <= beta < 1:
            raise ValueError(f"betas must lie in [0, 1), got {(beta1, beta2)}")
    check.real(eps, "eps", 0)
    check.real(weight_decay, "weight_decay", 0)
    if averaged and average_decay is None:
        raise ValueError("average_decay must be given with averages")
    bounds: dict[str, tuple[Any, float, float]] = {
        "learning_rate": (learning_rate, 0, math.inf),
        "step": (step, 1, math.inf),
    }
    bounds |= {"average_decay": (average_decay, 0, 1), "gradient_scale": (gradient_scale, -math.inf, math.inf)}
    for name, (number, least, most) in bounds.items():
        if isinstance(number, Tensor):
            if number.dim() or number.dtype.is_complex:
                raise ValueError(f"{name} must be a number or a real tensor of no dimensions, got {_described(number)}")
            if number.device.type == "meta":
                raise ValueError(f"{name} must have data, got a meta tensor")
        elif number is not None or name in ("learning_rate", "step"):
            check.real(number, name, least, most)


def _on_device(numbers: list[Any], parameter: Tensor) -> Tensor:
    """All of them as one tensor, without waiting for the device."""
    result = torch.empty(len(numbers), dtype=torch.float64, device=parameter.device)
    for place, number in zip(result, numbers, strict=True):
        place.copy_(number) if isinstance(number, Tensor) else place.fill_(number)
    return result


def _check_lists(*lists: list[Tensor]) -> None:
    spans = []
    for i, parameter in enumerate(lists[0]):
        for state, each in enumerate(lists):
            if not each:
                continue
            name, tensor = f"{_NAMES[state]}[{i}]", each[i]
            _check_tensor(tensor, name, lists[0][0])
            if tensor.shape != parameter.shape:
                shapes = f"{list(parameter.shape)}, got {list(tensor.shape)}"
                raise ValueError(f"{name} must have the shape of its parameter, {shapes}")
            if state != _GRADIENTS and _shares_with_itself(tensor):
                raise ValueError(f"{name} must have no elements that share memory, got the strides {tensor.stride()}")
            if tensor.numel() and tensor.device.type != "meta":
                spans.append((*_span(tensor), (i, state)))
    _check_apart(spans)


def _check_apart(spans: list[tuple[int, int, tuple[int, int]]]) -> None:
    """What is written lies apart from all else: (begin, end, (place in its list, list))."""
    read = written = (0, (0, 0))  # the farthest end so far, and whose it is
    for begin, end, (i, state) in sorted(spans):
        last, other = written if state == _GRADIENTS else max(read, written)
        if begin < last:
            earlier, later = sorted([other, (i, state)])
            raise ValueError(f"{_name(later)} must not share memory with {_name(earlier)}")
        if state == _GRADIENTS:
            read = max(read, (end, (i, state)))
        else:
            written = (end, (i, state))


def _name(place: tuple[int, int]) -> str:
    i, state = place
    return f"{_NAMES[state]}[{i}]"


def _check_tensor(tensor: Any, name: str, first: Tensor) -> None:
    check.tensor(tensor, name)
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {tensor.layout}")
    check.floats(tensor, name)
    check.device(tensor, name, first.device, "the first tensor")


def _shares_with_itself(tensor: Tensor) -> bool:
    """Whether elements lie in the memory of others, as those of an expanded tensor do."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < extent:
            return tensor.numel() > 0
        extent += (size - 1) * stride
    return False


def _span(tensor: Tensor) -> tuple[int, int]:
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + extent * tensor.element_size()


def _groups(lists: tuple[list[Tensor], ...]) -> list[tuple[list[list[Tensor]], bool]]:
    """The tensors by their types, and whether the kernel takes them: in one layout without gaps."""
    groups: dict[Any, list[tuple[Tensor, ...]]] = {}
    for row in zip(*(each for each in lists if each), strict=True):
        without_gaps = torch.empty_like(row[0]).stride()
        fits = all(tensor.stride() == without_gaps for tensor in row)
        groups.setdefault((fits, *(tensor.dtype for tensor in row)), []).append(row)
    columns = [([list(column) for column in zip(*rows, strict=True)], key[0]) for key, rows in groups.items()]
    return [([*group, *([[]] * (len(lists) - len(group)))], fits) for group, fits in columns]


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}"


def _by_definition(lists: Sequence[list[Tensor]], numbers: Sequence[float]) -> None:
    rate, beta1, beta2, eps, weight_decay, step, average_decay, gradient_scale = numbers
    reference.adamw_(
        *lists[:4],
        averages=lists[4] or None,
        learning_rate=rate,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        step=step,
        average_decay=average_decay,
        gradient_scale=gradient_scale,
    )


def _fake_step(*arguments: Any) -> None:
    # One tensor of no data among others brings the call here.
    for name, tensors in zip(_NAMES, arguments, strict=False):
        for i, tensor in enumerate(tensors):
            check.device(tensor, f"{name}[{i}]", arguments[0][0].device, "the first tensor")


register_fake("adamw_", _fake_step)


def _fake_norm(gradients: list[Tensor]) -> Tensor:
    return gradients[0].new_empty((), dtype=torch.promote_types(gradients[0].dtype, torch.float32))


register_fake("gradient_norm", _fake_norm)

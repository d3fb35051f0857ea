"""One step of any sampler, and the sums that guidance needs: the family `solve`.

A step is called some hundred times an image, on images that may be small. So it has no autograd of its own: where a
gradient is asked for, the definition runs. And the kernel checks the arguments: Python looks at them after it refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ..reference.solve import COLUMNS, MOST_SLOTS
from ._derivatives import gate, register_fake

__all__ = ["denoised_quantile", "output_products", "solver_step", "solver_step_"]

runs_reference = gate("solve")

_MOST_OUTPUTS = 3
_step = torch.ops.visgen_fast.solver_step_.default
_products = torch.ops.visgen_fast.output_products.default
_quantile = torch.ops.visgen_fast.denoised_quantile.default


def solver_step(
    x: Tensor,
    outputs: Tensor | Sequence[Tensor],
    table: Tensor,
    step: int | Tensor,
    *,
    slots: Sequence[Tensor] = (),
    weights: Tensor | None = None,
    seeds: Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    variance: Tensor | None = None,
    limit: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One row of a sampler's table: from a state and the network's outputs to the next state, in one pass.

        g    = Σ_j w_j·output_j
        x̂    = u·x + v·g, clamped
        next = a sum of (x, x̂, last output, slots, noise) with the row's coefficients, and so are the slots written

    What has the coefficient 0 is not read: NaN there does no harm.

    Args:
        x: [B, …] with up to 9 dimensions, the state as the network read it; float32, bfloat16, float16 or float64.
        outputs: one to three of the network's outputs, each of x's shape and any floating-point type.
        table: float64 [rows, 32] on x's device, as `visgen_fast.diffusion.plan` makes it; `reference.solve` names the
            columns.
        step: the row: an int; or int64 of shape [], [B] or of x's leading dimensions (a row a frame, a token), read on
            the device.
        slots: up to four tensors of x's shape, which carry what later rows read.
        weights: of the outputs: [J], or [rows or 1, B or 1, J]; by default 1 for the first.
        seeds: int64 [B]: the noise of row r is `gaussian(seeds, x.shape[1:], stream=stream + r)`.
        noise: the noise itself, shape of x; takes the place of `seeds`.
        variance: shape of x: the noise is multiplied by exp(½(l0 + l1·variance)), the row's (l0, l1).
        limit: [B], positive: x̂ is held within ±limit and then divided by it, instead of the row's clamp.

    Returns:
        (next, slots), new tensors. Arithmetic is float32 inside, float64 for float64 x. Gradients flow into all
        floating-point arguments but the table, through the definition.

    Raises:
        TypeError, ValueError: an argument does not fit; a row that is not in the table, or that reads or writes a slot
            or noise that is not given. On a GPU, where the rows cannot be looked at, the sample becomes NaN.

    Source: the solvers of `visgen_fast.diffusion.solvers`, each of which is a table.
    """
    given, slots = _as_tuple(outputs, "outputs"), _as_tuple(slots, "slots")
    tensors = (x, *given, *slots, weights, noise, variance, limit)
    options: dict[str, Any] = {"weights": weights, "seeds": seeds, "noise": noise, "stream": stream}
    options |= {"variance": variance, "limit": limit}
    try:
        wants_gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        if wants_gradient or runs_reference(*tensors, seeds):
            _check_step(x, given, table, step, slots, **options)
            return reference.solver_step(x, given, table, step, slots=slots, **options)
        after, kept = torch.empty_like(x), tuple(slot.clone() for slot in slots)
    except (AttributeError, TypeError):  # of what is no tensor
        _check_step(x, given, table, step, slots, **options)
        raise
    return solver_step_(x, given, table, step, slots=kept, out=after, **options), kept


def solver_step_(
    x: Tensor,
    outputs: Tensor | Sequence[Tensor],
    table: Tensor,
    step: int | Tensor,
    *,
    slots: Sequence[Tensor] = (),
    weights: Tensor | None = None,
    seeds: Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    variance: Tensor | None = None,
    limit: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`solver_step` in place: the slots are overwritten, and x unless `out`, of x's shape, is given.

    Returns x, or `out`. It has no gradient: ValueError where one is asked for, where what is written shares memory with
    another tensor in another layout, and what `solver_step` raises.
    """
    given = outputs if type(outputs) is tuple else _as_tuple(outputs, "outputs")
    slots = slots if type(slots) is tuple else _as_tuple(slots, "slots")
    try:
        rows, row = _rows(step, x) if isinstance(step, Tensor) else (None, step)
        if torch.is_grad_enabled():
            _refuse_gradients(x, *given, *slots, noise, out)
        if runs_reference(x, *given, *slots, weights, seeds, noise, variance, limit, out):
            _check_step(x, given, table, step, slots, weights, seeds, noise, stream, variance, limit)
            return _by_definition(x, given, table, step, slots, weights, seeds, noise, stream, variance, limit, out)
        if len(given) > _MOST_OUTPUTS or len(slots) > MOST_SLOTS:
            raise IndexError("too many outputs or slots")
        o = (*given, None, None)
        s = (*slots, None, None, None, None)
        weights = _for_kernel(weights)
        if limit is not None:
            limit = limit.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        _step(
            *(x, o[0], o[1], o[2], table, rows, row, s[0], s[1], s[2], s[3]),
            *(weights, seeds, noise, stream, variance, limit, out),
        )
    except (RuntimeError, TypeError, IndexError, AttributeError) as error:
        _check_step(x, given, table, step, slots, weights, seeds, noise, stream, variance, limit, out)
        raise ValueError(str(error).splitlines()[0]) from error
    return x if out is None else out


def output_products(outputs: Tensor | Sequence[Tensor], x: Tensor | None = None) -> Tensor:
    """Per sample, the sums over all elements of the products of (1, x, outputs): what guidance by a reduction needs.

    Args:
        outputs: one to three tensors [B, …] of one shape, up to 9 dimensions; any floating-point type.
        x: another of that shape.

    Returns:
        float64 [B, n, n] with n = 1 + outputs (+ 1 with x), symmetric, the same bits in every run. Standard deviations,
        norms and projections of any combination follow from it. Gradients flow through the definition.

    Raises:
        TypeError, ValueError: an argument does not fit the above.
    """
    given = _as_tuple(outputs, "outputs")
    signals = given if x is None else (x, *given)
    _check_outputs(given, given[0] if given else x)
    if not 1 <= given[0].dim() <= 9:
        raise ValueError(f"outputs must have 1 to 9 dimensions, got {given[0].dim()}")
    if x is not None:
        _check_signal(x, "x", given[0])
    if runs_reference(*signals) or (torch.is_grad_enabled() and any(signal.requires_grad for signal in signals)):
        return reference.output_products(given, x)
    o = (*given, None, None)
    return _products(x, o[0], o[1], o[2])


def denoised_quantile(
    x: Tensor,
    outputs: Tensor | Sequence[Tensor],
    table: Tensor,
    step: int | Tensor,
    q: float,
    weights: Tensor | None = None,
) -> Tensor:
    """The quantile q of |x̂| of each sample, for dynamic thresholding: what `torch.quantile` gives, of any size.

    Arguments and errors as of `solver_step`; q lies in [0, 1], and samples have elements (ValueError). Returns [B] in
    the arithmetic's type, NaN for a sample with NaN. Nothing is sorted or stored: a pass over the state and the outputs
    finds eleven bits of the numbers that the quantile lies between. Gradients flow through the definition.

    Source: Saharia et al., "Photorealistic text-to-image diffusion models with deep language understanding", 2022,
    section 2.3.
    """
    given = _as_tuple(outputs, "outputs")
    _check_step(x, given, table, step, None, weights)
    check.real(q, "q", 0, 1)
    if 0 in x.shape[1:]:
        raise ValueError(f"x must have elements in each sample, of which there is a quantile, got {list(x.shape)}")
    signals = (x, *given, weights)
    wants_gradient = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in signals)
    if wants_gradient or runs_reference(*signals):
        return reference.denoised_quantile(x, given, table, step, q, weights)
    rows, row = _rows(step, x) if isinstance(step, Tensor) else (None, step)
    o = (*given, None, None)
    low, high, weight = _quantile(x, o[0], o[1], o[2], table, rows, row, _for_kernel(weights), q).unbind()
    return torch.lerp(low, high, weight)


def _as_tuple(tensors: Tensor | Sequence[Tensor], name: str) -> tuple[Tensor, ...]:
    if isinstance(tensors, Tensor):
        return (tensors,)
    if not isinstance(tensors, Sequence):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(tensors).__name__}")
    return tuple(tensors)


def _rows(step: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """A tensor of steps as the kernel takes it."""
    return (step.expand(x.shape[0]) if step.dim() == 0 else step.reshape(-1)).contiguous(), 0


def _for_kernel(weights: Tensor | None) -> Tensor | None:
    if weights is None:
        return None
    if weights.dtype != torch.float64:  # a conversion that changes nothing takes as long as adding two images
        weights = weights.to(torch.float64)
    return (weights[None, None] if weights.dim() == 1 else weights).contiguous()


def _refuse_gradients(*tensors: Tensor | None) -> None:
    if any(t is not None and t.requires_grad for t in tensors):
        raise ValueError("solver_step_ has no gradient, and one of its tensors requires one: call solver_step")


def _by_definition(x, outputs, table, step, slots, weights, seeds, noise, stream, variance, limit, out):
    after, written = reference.solver_step(
        *(x, outputs, table, step),
        **{"slots": slots, "weights": weights, "seeds": seeds, "noise": noise, "stream": stream},
        **{"variance": variance, "limit": limit},
    )
    for slot, value in zip(slots, written, strict=True):
        slot.copy_(value)
    return (x if out is None else out).copy_(after)


def _check_step(
    x, outputs, table, step, slots, weights=None, seeds=None, noise=None, stream=0, variance=None, limit=None, out=None
) -> None:
    """One sentence for the first argument that does not fit; without slots, for what makes x̂ alone."""
    check.tensor(x, "x")
    if x.dtype not in check.FLOATS or not 1 <= x.dim() <= 9:
        raise ValueError(f"x must be floating-point with 1 to 9 dimensions, got {x.dtype} of shape {list(x.shape)}")
    _check_outputs(outputs, x)
    if slots is not None and len(slots) > MOST_SLOTS:
        raise ValueError(f"slots must be at most {MOST_SLOTS} tensors, got {len(slots)}")
    for k, slot in enumerate(slots or ()):
        _check_signal(slot, f"slots[{k}]", x)
    for name, signal in {"noise": noise, "variance": variance, "out": out}.items():
        if signal is not None:
            _check_signal(signal, name, x)
    check.tensor(table, "table")
    if table.dtype != torch.float64 or table.dim() != 2 or table.shape[1] != COLUMNS or not table.is_contiguous():
        raise ValueError(
            f"table must be contiguous float64 [rows, {COLUMNS}], got {table.dtype} of shape {list(table.shape)}"
        )
    check.device(table, "table", x.device, "x")
    _check_rows(x, table, step, None if slots is None else len(slots), seeds is not None or noise is not None)
    if weights is not None:
        _check_weights(weights, x, len(outputs), len(table))
    if seeds is not None:
        check.seeds(seeds, x.shape[0], x.device)
    check.stream(stream)
    if limit is not None:
        _check_limit(limit, x)


def _check_outputs(outputs: Sequence[Any], like: Any) -> None:
    if not 1 <= len(outputs) <= _MOST_OUTPUTS:
        raise ValueError(f"outputs must be one to {_MOST_OUTPUTS} tensors, got {len(outputs)}")
    for j, output in enumerate(outputs):
        _check_signal(output, f"outputs[{j}]", like)


def _check_signal(signal: Any, name: str, x: Tensor) -> None:
    check.tensor(signal, name)
    if signal.shape != x.shape:
        raise ValueError(f"{name} must have the shape of the state, {list(x.shape)}, got {list(signal.shape)}")
    if signal.dtype not in check.FLOATS:
        raise ValueError(f"{name} must be float32, bfloat16, float16 or float64, got {signal.dtype}")
    check.device(signal, name, x.device, "the state")


def _check_weights(weights: Tensor, x: Tensor, outputs: int, rows: int) -> None:
    check.tensor(weights, "weights")
    shape = weights.shape if weights.dim() == 3 else (1, 1, *weights.shape)
    fits = len(shape) == 3 and shape[0] in (1, rows) and shape[1] in (1, x.shape[0]) and shape[2] == outputs
    if not fits or not weights.is_floating_point() or weights.device != x.device:
        raise ValueError(
            f"weights must be floating-point [{outputs}] or [{rows} or 1, {x.shape[0]} or 1, {outputs}] on {x.device}, "
            f"got {weights.dtype} of shape {list(weights.shape)} on {weights.device}"
        )


def _check_limit(limit: Any, x: Tensor) -> None:
    check.tensor(limit, "limit")
    if limit.shape != x.shape[:1] or limit.device != x.device:
        raise ValueError(f"limit must be [{x.shape[0]}] on {x.device}, got {list(limit.shape)} on {limit.device}")
    if limit.device.type == "cpu" and bool((limit <= 0).any()):
        raise ValueError(f"limit must be positive, got {limit.min().item():g}")


def _check_rows(x: Tensor, table: Tensor, step: int | Tensor, slots: int | None, has_noise: bool) -> None:
    if isinstance(step, Tensor):
        if step.dtype != torch.int64 or step.device != x.device or step.shape != x.shape[: step.dim()]:
            raise ValueError(
                f"step must be an int, or int64 on {x.device} of shape [] or of leading dimensions of {list(x.shape)}, "
                f"got {step.dtype} of shape {list(step.shape)} on {step.device}"
            )
        if x.device.type != "cpu":
            return
        used = sorted(set(step.reshape(-1).tolist()))
    elif not isinstance(step, int) or isinstance(step, bool):
        raise TypeError(f"step must be an int or an int64 tensor, got {type(step).__name__}")
    else:
        used = [step]
    for row in used:
        if not 0 <= row < len(table):
            raise ValueError(f"step must lie in [0, {len(table)}), the rows of table, got {row}")
        if slots is not None:
            _check_row(table[row].tolist(), row, slots, has_noise)


def _check_row(row: list[float], number: int, slots: int, has_noise: bool) -> None:
    groups = [row[8:16], *(row[first : first + 8] for slot, first in ((row[6], 16), (row[7], 24)) if slot >= 0)]
    if any(group[7] for group in groups) and not has_noise:
        raise ValueError(f"row {number} of table adds noise: seeds or noise must be given")
    touched = [k for k in range(MOST_SLOTS) if any(group[3 + k] for group in groups)]
    touched += [int(slot) for slot in row[6:8] if slot >= 0]
    if touched and max(touched) >= slots:
        raise ValueError(f"row {number} of table uses slot {max(touched)}, and {slots} slots are given")


register_fake("solver_step_", lambda *arguments: None)


def _fake_products(x, output, output_1, output_2):
    size = 1 + sum(signal is not None for signal in (x, output, output_1, output_2))
    return output.new_empty((output.shape[0], size, size), dtype=torch.float64)


def _fake_quantile(x, output, output_1, output_2, table, steps, step, weights, q):
    return x.new_empty((3, x.shape[0]), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


register_fake("output_products", _fake_products)
register_fake("denoised_quantile", _fake_quantile)

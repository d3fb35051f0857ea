"""Generalized diffusion, x_t = a·x + b·z and target = c·x + d·z, in one pass over memory: the family `diffuse`.

The noise z is made where it is used and never stored; the backward pass makes it again from the seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._derivatives import differentiate, differentiate_backward
from ._dispatch import FLOATS, check_seeds, check_stream, check_tensor, runs_reference

__all__ = ["add_noise", "diffuse"]

_library = torch.ops.visgen_fast


def add_noise(
    x: Tensor,
    coefficients: Tensor,
    seeds: Tensor | None = None,
    *,
    endpoint: Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The noised picture x_t = a·x + b·z (+ e·x₁) alone; everything as in `diffuse`, whose first result it is."""
    arguments = _checked(x, coefficients, seeds, endpoint, noise, stream, out_dtype)
    if runs_reference(x, coefficients, seeds, endpoint, noise):
        return reference.add_noise(
            x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=arguments[-1]
        )
    return _library.add_noise(*arguments)


def diffuse(
    x: Tensor,
    coefficients: Tensor,
    seeds: Tensor | None = None,
    *,
    endpoint: Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The noised picture and the target that the network learns, of generalized diffusion:

        x_t    = a·x + b·z (+ e·x₁)
        target = c·x + d·z (+ f·x₁),    z standard normal

    Every schedule and prediction type is a choice of coefficients; `visgen_fast.diffusion` makes them.

    Args:
        x: [B, …] with up to 9 dimensions; float32, bfloat16, float16, float64, or uint8 pixels 0…255, which stand for
            −1…1.
        coefficients: float32 [B, 4] with a row (a, b, c, d) for each sample, or [*s, 4] with s broadcastable to x's
            shape (a row for each frame, token, …); six columns (a, b, c, d, e, f) with an endpoint. float64 is taken
            as it is for float64 x, else rounded. Under autocast any floating-point type is raised to float32.
        seeds: int64 [B]: z is `gaussian(seeds, x.shape[1:], stream=stream)`.
        endpoint: x₁, shape of x, uint8 pixels or floating-point: the other end of a bridge or an interpolant.
        noise: z itself, shape of x, floating-point; takes the place of `seeds`.
        stream: which of the seeds' sequences z is; see `Purpose.stream`.
        out_dtype: of both results; x's own by default, float32 for pixels.

    Returns:
        (x_t, target), each with x's shape and memory layout. Arithmetic is float32 inside, float64 for float64 x;
        autocast leaves the operation as it is.

    Gradients flow into x, coefficients, endpoint and noise; second derivatives are right; a forward-mode tangent or
    `torch.func.vmap` runs `visgen_fast.reference.diffuse`.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Kingma et al., "Variational diffusion models", 2021, eq. 1 (x_t); Salimans and Ho, "Progressive
    distillation", 2022, appendix D (v); Liu et al., "Flow straight and fast", 2022 (velocity); Albergo et al.,
    "Stochastic interpolants", 2023 (endpoint).
    """
    arguments = _checked(x, coefficients, seeds, endpoint, noise, stream, out_dtype)
    if runs_reference(x, coefficients, seeds, endpoint, noise):
        return reference.diffuse(
            x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=arguments[-1]
        )
    return _library.diffuse(*arguments)


def _checked(x, coefficients, seeds, endpoint, noise, stream, out_dtype):
    """The arguments of the compiled operation."""
    check_tensor(x, "x")
    check_tensor(coefficients, "coefficients")
    if x.dtype not in (*FLOATS, torch.uint8):
        raise ValueError(f"x must be float32, bfloat16, float16, float64 or uint8 pixels, got {x.dtype}")
    if not 1 <= x.dim() <= 9:
        raise ValueError(f"x must have 1 to 9 dimensions, the first of them the batch, got {x.dim()}")
    if (seeds is None) == (noise is None):
        raise ValueError("exactly one of seeds and noise must be given")
    if seeds is not None:
        check_seeds(seeds, x.shape[0], x.device)
        seeds = seeds.contiguous()
    _check_signal(noise, "noise", x, FLOATS)
    _check_signal(endpoint, "endpoint", x, (*FLOATS, torch.uint8))
    check_stream(stream)
    if out_dtype is None:
        out_dtype = x.dtype if x.dtype != torch.uint8 else torch.float32
    elif out_dtype not in FLOATS:
        raise ValueError(f"out_dtype must be float32, bfloat16, float16 or float64, got {out_dtype}")
    rows = coefficient_rows(coefficients, x, 4 if endpoint is None else 6)
    return x, rows, seeds, endpoint, noise, stream, out_dtype


def _check_signal(signal: Tensor | None, name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if signal is None:
        return
    check_tensor(signal, name)
    if signal.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {list(x.shape)}, got {list(signal.shape)}")
    if signal.dtype not in dtypes:
        raise ValueError(f"{name} must be one of {', '.join(str(d)[6:] for d in dtypes)}, got {signal.dtype}")
    if signal.device != x.device:
        raise ValueError(f"{name} must be on {x.device}, the device of x, got {signal.device}")


def coefficient_rows(coefficients: Tensor, x: Tensor, columns: int) -> Tensor:
    """Coefficients as [rows, columns], each row covering x.numel() / rows consecutive elements of x.

    Dimensions of x behind the last one that the coefficients tell apart share a row; those before it are expanded,
    which autograd undoes by summing.
    """
    if coefficients.dim() == 0 or coefficients.shape[-1] != columns:
        raise ValueError(
            f"coefficients must have {columns} columns {'without' if columns == 4 else 'with'} an endpoint, "
            f"got the shape {list(coefficients.shape)}"
        )
    if coefficients.device != x.device:
        raise ValueError(f"coefficients must be on {x.device}, the device of x, got {coefficients.device}")
    if coefficients.dtype not in (torch.float32, torch.float64) and not (
        coefficients.is_floating_point() and torch.is_autocast_enabled(x.device.type)
    ):
        raise ValueError(f"coefficients must be float32, or float64 where x is, got {coefficients.dtype}")
    leading = list(coefficients.shape[:-1])
    if len(leading) == 1:
        leading += [1] * (x.dim() - 1)
    leading = [1] * (x.dim() - len(leading)) + leading
    if len(leading) > x.dim() or any(s not in (1, n) for s, n in zip(leading, x.shape, strict=True)):
        raise ValueError(
            f"coefficients must be [{x.shape[0]}, {columns}] or [*s, {columns}] with s broadcastable to "
            f"{list(x.shape)}, got {list(coefficients.shape)}"
        )
    last = max([0, *(d for d, s in enumerate(leading) if s != 1)])  # `default=` would break torch.compile
    rows = coefficients.reshape(*leading[: last + 1], columns).expand(*x.shape[: last + 1], columns)
    return rows.reshape(-1, columns).to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()


@torch.library.register_fake("visgen_fast::add_noise")
def _(x, coefficients, seeds, endpoint, noise, stream, out_dtype):
    return torch.empty_like(x, dtype=out_dtype)


@torch.library.register_fake("visgen_fast::diffuse")
def _(x, coefficients, seeds, endpoint, noise, stream, out_dtype):
    return torch.empty_like(x, dtype=out_dtype), torch.empty_like(x, dtype=out_dtype)


@torch.library.register_fake("visgen_fast::diffuse_backward")
def _(grad_x_t, grad_target, x, coefficients, seeds, endpoint, noise, stream, needs):
    likes = (x, coefficients, endpoint, noise)
    return tuple(
        torch.empty_like(like) if needed else x.new_empty(0, dtype=torch.float32)
        for like, needed in zip(likes, needs, strict=True)
    )


def _save_inputs(ctx, inputs, output):
    x, coefficients, seeds, endpoint, noise, stream, _ = inputs
    ctx.save_for_backward(x, coefficients, seeds, endpoint, noise)
    ctx.stream = stream
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_x_t, grad_target=None):
    x, coefficients, seeds, endpoint, noise = ctx.saved_tensors
    if grad_x_t is None and grad_target is None:
        return (None,) * 7
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 3, 4)]
    if runs_reference(x, grad_x_t, grad_target, coefficients, endpoint, noise):
        definition, inputs = _definition(ctx.saved_tensors, ctx.stream, (grad_x_t, grad_target))
        gradients = differentiate(definition, (grad_x_t, grad_target), inputs)
    else:
        gradients = _library.diffuse_backward(
            grad_x_t, grad_target, x, coefficients, seeds, endpoint, noise, ctx.stream, needs
        )
    to_x, to_coefficients, to_endpoint, to_noise = (g if n else None for g, n in zip(gradients, needs, strict=True))
    return to_x, to_coefficients, None, to_endpoint, to_noise, None, None


def _save_backward_inputs(ctx, inputs, output):
    *tensors, ctx.stream, ctx.needs = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _second_backward(ctx, *upstream):
    grad_x_t, grad_target, *saved = ctx.saved_tensors
    definition, inputs = _definition(saved, ctx.stream, (grad_x_t, grad_target))
    to_incoming, (to_x, to_coefficients, to_endpoint, to_noise) = differentiate_backward(
        definition,
        (grad_x_t, grad_target),
        inputs,
        [direction if needed else None for direction, needed in zip(upstream, ctx.needs, strict=True)],
    )
    noise_was_given = saved[-1] is not None
    return *to_incoming, to_x, to_coefficients, None, to_endpoint, to_noise if noise_was_given else None, None, None


def _definition(saved, stream, gradients):
    """`diffuse` in plain PyTorch as a function of (x, coefficients, endpoint, z), and its inputs here.

    Coefficients are rows, so x is cut into as many; results are of the gradients' type, which is that of the outputs.
    """
    x, coefficients, seeds, endpoint, z = saved
    rows, dtype = coefficients.shape[0], next(g.dtype for g in gradients if g is not None)
    if z is None:
        z = reference.gaussian(seeds, x.shape[1:], stream=stream, dtype=coefficients.dtype)

    def definition(x, coefficients, endpoint, z):
        shape, cut = x.shape, (rows, x.numel() // max(rows, 1))
        x, endpoint, z = (None if t is None else t.reshape(cut) for t in (x, endpoint, z))
        outputs = reference.diffuse(x, coefficients, endpoint=endpoint, noise=z, out_dtype=dtype)
        return tuple(out.view(shape) for out in outputs)

    return definition, (x, coefficients, endpoint, z)


for _name in ("add_noise", "diffuse"):
    torch.library.register_autograd(f"visgen_fast::{_name}", _backward, setup_context=_save_inputs)
torch.library.register_autograd("visgen_fast::diffuse_backward", _second_backward, setup_context=_save_backward_inputs)

"""Generalized diffusion, x_t = a·x + b·z and target = c·x + d·z, in one pass over memory: the family `diffuse`.

The noise z is made where it is used and never stored; the backward pass makes it again from the seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ._derivatives import differentiable, gate, register_fake, run

__all__ = ["add_noise", "diffuse"]

runs_reference = gate("diffuse")


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
    """The noised image x_t = a·x + b·z (+ e·x₁) alone; everything as in `diffuse`, whose first result it is."""
    return _run("add_noise", x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=out_dtype)


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
    """The noised image and the target that the network learns, of generalized diffusion:

        x_t    = a·x + b·z (+ e·x₁)
        target = c·x + d·z (+ f·x₁),    z standard normal

    Every schedule and prediction type is a choice of coefficients; `visgen_fast.diffusion` makes them.

    Args:
        x: [B, …] with up to 9 dimensions; float32, bfloat16, float16, float64, or uint8 pixels, 0…255 for −1…1.
        coefficients: float32 [B, 4] with a row (a, b, c, d) for each sample, or [*s, 4] with s broadcastable to x's
            shape (a row for each frame, token, …); six columns (a, b, c, d, e, f) with an endpoint. float64 is taken
            as it is for float64 x, else rounded. Under autocast any floating-point type is raised to float32.
        seeds: int64 [B]: z is `gaussian(seeds, x.shape[1:], stream=stream)`.
        endpoint: x₁, shape of x, uint8 pixels or floating-point: the other end of a bridge or an interpolant.
        noise: z itself, shape of x, floating-point; takes the place of `seeds`.
        stream: which of the seeds' sequences z is; see `Purpose.stream`.
        out_dtype: of both results; x's own by default, float32 for pixels.

    Returns:
        (x_t, target), each with x's shape and memory layout. Gradients flow into x, coefficients, endpoint and noise.
        TypeError or ValueError for an argument that does not fit.

    Source: Kingma et al., "Variational diffusion models", 2021, eq. 1 (x_t); Salimans and Ho, "Progressive
    distillation", 2022, appendix D (v); Liu et al., "Flow straight and fast", 2022 (velocity); Albergo et al.,
    "Stochastic interpolants", 2023 (endpoint).
    """
    return _run("diffuse", x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=out_dtype)


def _run(operation, x, coefficients, seeds, **options):
    endpoint, noise, stream, out_dtype = options.values()
    seeds, rows = check_diffusion(x, coefficients, seeds, endpoint, noise, stream)
    out_dtype = out_dtype or (x.dtype if x.dtype != torch.uint8 else torch.float32)
    check.float_type(out_dtype, "out_dtype")
    if runs_reference(x, coefficients, seeds, endpoint, noise):
        return getattr(reference, operation)(x, coefficients, seeds, **options)
    return run(operation, x, rows, seeds, endpoint, noise, stream, out_dtype)


def check_diffusion(x, coefficients, seeds, endpoint, noise, stream) -> tuple[Tensor | None, Tensor]:
    """Seeds and rows of coefficients as kernels read them; an error where an argument of `diffuse` does not fit."""
    check.tensor(x, "x")
    check.tensor(coefficients, "coefficients")
    if x.dtype not in (*check.FLOATS, torch.uint8):
        raise ValueError(f"x must be float32, bfloat16, float16, float64 or uint8 pixels, got {x.dtype}")
    if not 1 <= x.dim() <= 9:
        raise ValueError(f"x must have 1 to 9 dimensions, the first of them the batch, got {x.dim()}")
    if (seeds is None) == (noise is None):
        raise ValueError("exactly one of seeds and noise must be given")
    if seeds is not None:
        check.seeds(seeds, x.shape[0], x.device)
        seeds = seeds.contiguous()
    for name, signal, dtypes in (
        ("noise", noise, check.FLOATS),
        ("endpoint", endpoint, (*check.FLOATS, torch.uint8)),
    ):
        if signal is not None:
            check.tensor(signal, name)
            check.device(signal, name, x.device, "x")
            if signal.shape != x.shape:
                raise ValueError(f"{name} must have the shape of x, {list(x.shape)}, got {list(signal.shape)}")
            if signal.dtype not in dtypes:
                raise ValueError(f"{name} must be one of {', '.join(str(d)[6:] for d in dtypes)}, got {signal.dtype}")
    check.stream(stream)
    return seeds, coefficient_rows(coefficients, x, 4 if endpoint is None else 6)


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
    check.device(coefficients, "coefficients", x.device, "x")
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
    return rows.reshape(-1, columns).to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def definition(x, coefficients, seeds, endpoint, noise, stream):
    """`diffuse` in plain PyTorch, with x cut into as many rows as coefficients; results as wide as the arithmetic."""
    if noise is None:
        noise = reference.gaussian(seeds, x.shape[1:], stream=stream, dtype=coefficients.dtype)
    cut = coefficients.shape[0], x.numel() // max(coefficients.shape[0], 1)
    rows, endpoint, noise = (None if t is None else t.reshape(cut) for t in (x, endpoint, noise))
    outputs = reference.diffuse(rows, coefficients, endpoint=endpoint, noise=noise, out_dtype=coefficients.dtype)
    return tuple(out.view(x.shape) for out in outputs)


register_fake("add_noise", lambda x, *others: torch.empty_like(x, dtype=others[-1]))
register_fake("diffuse", lambda x, *others: tuple(torch.empty_like(x, dtype=others[-1]) for _ in range(2)))
differentiable("diffuse", "add_noise", definition=definition, inputs=("x", "coefficients", "endpoint", "noise"))

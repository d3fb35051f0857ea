"""Generalized diffusion in plain PyTorch: the definition the compiled kernels are held to.

    x_t    = a·x + b·z  (+ e·x₁)
    target = c·x + d·z  (+ f·x₁)

Every schedule and every prediction is a choice of (a, b, c, d); a bridge or an interpolant between two pictures
(Albergo et al., "Stochastic interpolants", 2023) adds the endpoint x₁ with (e, f).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import gaussian

__all__ = ["add_noise", "diffuse"]


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
    """The noised picture x_t alone; see `diffuse`."""
    return diffuse(x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=out_dtype)[0]


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
    """The noised picture x_t and the target the network learns; arithmetic in float32, in float64 for float64 x."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if noise is None:
        assert seeds is not None, "exactly one of seeds and noise must be given"
        noise = gaussian(seeds, x.shape[1:], stream=stream, dtype=dtype)
    out_dtype = out_dtype or (x.dtype if x.is_floating_point() else torch.float32)
    a, b, c, d, *e_f = broadcast_coefficients(coefficients.to(dtype), x)
    x, z = from_pixels(x, dtype), noise.to(dtype)
    x_t, target = a * x + b * z, c * x + d * z
    if endpoint is not None:
        e, f = e_f
        endpoint = from_pixels(endpoint, dtype)
        x_t, target = x_t + e * endpoint, target + f * endpoint
    return x_t.to(out_dtype), target.to(out_dtype)


def from_pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 pixels 0…255 to −1…1 in `dtype`; anything else only to `dtype`."""
    return x.to(dtype) / 127.5 - 1 if x.dtype == torch.uint8 else x.to(dtype)


def broadcast_coefficients(coefficients: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The columns (a, b, c, d) or (a, b, c, d, e, f), each ready to multiply x.

    Coefficients of two dimensions are one row a sample; any other leading shape broadcasts against x's shape.
    """
    if coefficients.dim() == 2:
        coefficients = coefficients.view(len(coefficients), *[1] * (x.dim() - 1), coefficients.shape[-1])
    return coefficients.unbind(-1)

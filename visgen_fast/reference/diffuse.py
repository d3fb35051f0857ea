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
    return diffuse(
        x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=out_dtype
    )[0]


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
    out_dtype = out_dtype or (x.dtype if x.is_floating_point() else torch.float32)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    z = gaussian(seeds, x.shape[1:], stream=stream, dtype=dtype) if noise is None else noise.to(dtype)
    signals = [from_pixels(x).to(dtype), z] + ([] if endpoint is None else [from_pixels(endpoint).to(dtype)])
    a_c, b_d, *e_f = broadcast_coefficients(coefficients.to(dtype), x)
    x_t = sum(pair[0] * signal for pair, signal in zip([a_c, b_d, *e_f], signals, strict=True))
    target = sum(pair[1] * signal for pair, signal in zip([a_c, b_d, *e_f], signals, strict=True))
    return x_t.to(out_dtype), target.to(out_dtype)


def from_pixels(x: Tensor) -> Tensor:
    """uint8 pixels 0…255 to float32 −1…1; anything else unchanged."""
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def broadcast_coefficients(coefficients: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """[(a, c), (b, d)] or [(a, c), (b, d), (e, f)], each ready to multiply x.

    Coefficients of two dimensions are one row a sample; any other leading shape broadcasts against x's shape.
    """
    if coefficients.dim() == 2:
        coefficients = coefficients.view(len(coefficients), *[1] * (x.dim() - 1), coefficients.shape[-1])
    a, b, c, d, *e_f = coefficients.unbind(-1)
    return [(a, c), (b, d)] + ([(e_f[0], e_f[1])] if e_f else [])

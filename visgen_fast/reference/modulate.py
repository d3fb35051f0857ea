"""Modulated norms in plain PyTorch: the definition the compiled kernels are held to.

Between the matrix products of a diffusion transformer stand (Peebles and Xie, "Scalable diffusion models with
transformers", 2023, section 3.2, adaLN-Zero)

    r = x + gate·branch,    y = norm(r)·(1 + scale) + shift

where norm is over the last dimension: of layers, (r − mean)/σ, or of root mean squares, r/√(mean of r²).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adaptive_instance_norm", "gated_residual_norm", "modulated_norm"]

Modulation = Tensor | tuple[Tensor, Tensor] | None


def modulated_norm(
    x: Tensor,
    scale: Modulation,
    shift: Modulation = None,
    *,
    norm: str = "layer",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """norm(x)·(1 + scale) + shift; with weight and bias the norm is affine first."""
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    if norm == "layer":
        y = y - y.mean(-1, keepdim=True)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * weight.to(y.dtype)
    if bias is not None:
        y = y + bias.to(y.dtype)
    if scale is not None:
        y = y * (1 + total(scale, y))
    if shift is not None:
        y = y + total(shift, y)
    return y.to(x.dtype)


def gated_residual_norm(
    x: Tensor,
    branch: Tensor,
    gate: Modulation,
    scale: Modulation,
    shift: Modulation = None,
    *,
    norm: str = "layer",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """x + gate·branch, and the modulated norm of it."""
    value = x.to(torch.promote_types(x.dtype, torch.float32))
    added = branch.to(value.dtype)
    residual = value + (added if gate is None else total(gate, value) * added)
    residual = residual.to(x.dtype)
    return residual, modulated_norm(residual, scale, shift, norm=norm, weight=weight, bias=bias, eps=eps)


def adaptive_instance_norm(x: Tensor, scale: Tensor | None, shift: Tensor | None, *, eps: float = 1e-5) -> Tensor:
    """Each channel of each sample normalized over its space (Huang and Belongie, 2017, eq. 8; Karras et al., 2019)."""
    flat = x.flatten(2)
    of_rows = (value if value is None else value[..., None] for value in (scale, shift))
    return modulated_norm(flat, *of_rows, eps=eps).reshape(x.shape)


def total(modulation: Tensor | tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """In the type of x and broadcastable to it; a pair, such as a table and an embedding, is added up."""
    if isinstance(modulation, Tensor):
        return _aligned(modulation, x).to(x.dtype)
    first, second = modulation
    return _aligned(first, x).to(x.dtype) + _aligned(second, x).to(x.dtype)


def _aligned(modulation: Tensor, x: Tensor) -> Tensor:
    """[B, D] means [B, 1, …, D]; others broadcast as they are."""
    if modulation.dim() != 2 or x.dim() < 2:
        return modulation
    rows, columns = modulation.shape
    return modulation.reshape(rows, *[1] * (x.dim() - 2), columns)

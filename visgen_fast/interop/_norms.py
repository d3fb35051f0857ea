"""Norms and activations of other codebases' transformers in the place of which our operations may stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._check import FLOATS
from .._library import has_kernels
from ..nn import plain
from ..nn.plain import is_plain

# Whose results in 16 bits are ours but for rounding, by the names that codebases give them.
_LAYER_NORMS = ("LayerNorm", "FP32LayerNorm")
_RMS_NORMS = ("RMSNorm",)


def norm_options(norm: nn.Module, x: Tensor) -> dict[str, Any] | None:
    """The options of `ops.modulated_norm` that compute it of x; None if it is no norm of the last dimension alone."""
    name, size = type(norm).__name__, getattr(norm, "normalized_shape", getattr(norm, "dim", None))
    if name not in _LAYER_NORMS + _RMS_NORMS or not is_plain(norm) or not isinstance(size, tuple) or len(size) != 1:
        return None
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    eps = norm.eps if norm.eps is not None else torch.finfo(real).eps
    kind = "layer" if name in _LAYER_NORMS else "rms"
    return {"norm": kind, "weight": norm.weight, "bias": getattr(norm, "bias", None), "eps": eps}


def activation_kind(activation: Any) -> str | None:
    """Its name for `ops.activate`; None where it is none of those."""
    if type(activation) is nn.SiLU:
        return "silu"
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    return kinds[activation.approximate] if type(activation) is nn.GELU else None


def is_plain_linear(layer: Any) -> bool:
    """Whether it is no more than a weight and a bias, of no type of its own."""
    return plain.is_plain_linear(layer) and type(layer.weight) is nn.Parameter


def fits(x: Any, modulation: Any) -> bool:
    """Whether modulation [B, …] of plain tokens x [B, N, D] leaves them their type, on a device with kernels."""
    if type(x) is not Tensor or type(modulation) is not Tensor or x.dim() != 3 or modulation.dim() != 2:
        return False
    is_float = x.dtype in FLOATS and modulation.dtype in FLOATS
    return is_float and torch.promote_types(x.dtype, modulation.dtype) == x.dtype and has_kernels(x.device)

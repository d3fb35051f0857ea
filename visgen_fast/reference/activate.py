"""Activations between two matrix products, with the bias of the first: the definition, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["activate", "gated_activate"]


def activate(x: Tensor, kind: str = "gelu_tanh", bias: Tensor | None = None) -> Tensor:
    """a(x + bias): x·Φ(x) for "gelu", its approximation by tanh (Hendrycks and Gimpel, 2016), x·σ(x) for "silu"."""
    return _activated(_biased(x, bias), kind).to(x.dtype)


def gated_activate(x: Tensor, kind: str = "swiglu", bias: Tensor | None = None, *, gate: str = "first") -> Tensor:
    """a(one half of x + bias)·(the other): silu for "swiglu", gelu for "geglu" (Shazeer, 2020, equation 6)."""
    first, second = _biased(x, bias).chunk(2, -1)
    gated, value = (first, second) if gate == "first" else (second, first)
    return (_activated(gated, {"swiglu": "silu", "geglu": "gelu"}[kind]) * value).to(x.dtype)


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x if bias is None else x + bias.to(x.dtype)


def _activated(x: Tensor, kind: str) -> Tensor:
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")

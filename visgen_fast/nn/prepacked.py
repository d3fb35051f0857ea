"""Matrix products in a loop: each weight is laid out for them once, and not again at every product."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """What a linear layer makes of x [..., in]; gelu: and then the exact GELU."""
    found = layer(x)
    return F.gelu(found) if gelu else found


class Prepacked:
    """`linear` for a loop of many products with few rows, by the weights that a layer has when it is first asked.

    A product of 8 or 16 rows takes no longer than MKL takes to rearrange its weight, which it does at every call. On a
    CPU in float32, oneDNN rearranges each weight once, at the layer's first product, which costs about as much as that
    product; results differ from the layer's own by rounding. Elsewhere, where gradients are wanted, under autocast, and
    where a layer has hooks, the layer itself is called. Weights that change later are not followed: begin each loop
    with a new one.
    """

    def __init__(self) -> None:
        self._packed: dict[nn.Module, tuple[Tensor, Tensor | None] | None] = {}
        self._product = torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None

    def __call__(self, layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
        if self._product is None or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not x.numel():
            return linear(layer, x, gelu=gelu)
        if layer not in self._packed:
            self._packed[layer] = _pack(layer)
        packed = self._packed[layer]
        if packed is None:
            return linear(layer, x, gelu=gelu)
        return self._product(x, *packed, "gelu" if gelu else "none", [], "none")


def _pack(layer: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The layer's weight as oneDNN wants it, and its bias; None where the layer has to be called itself."""
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    if layer.weight.device.type != "cpu" or layer.weight.dtype != torch.float32:
        return None
    return torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()), layer.bias

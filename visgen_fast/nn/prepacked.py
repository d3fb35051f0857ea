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
        self._weights: dict[nn.Module, Tensor] = {}

    def __call__(self, layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
        hooks = layer._forward_hooks or layer._forward_pre_hooks
        if hooks or type(layer) is not nn.Linear or not x.numel() or not _packable(layer.weight):
            return linear(layer, x, gelu=gelu)
        packed = self._weights.get(layer)
        if packed is None:
            packed = self._weights[layer] = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        kind, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise.default(x, packed, layer.bias, kind, [], algorithm)


def _packable(weight: Tensor) -> bool:
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or torch.is_grad_enabled():
        return False
    return torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")

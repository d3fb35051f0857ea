"""Matrix products in a loop: each weight is laid out for them once, and not again at every product."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops as _ops  # noqa: F401  (loads the compiled library)

_PANEL = 32  # outputs side by side, as csrc/ops/linear.h has them


def linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """What a linear layer makes of x [..., in]; gelu: and then the exact GELU."""
    found = layer(x)
    return F.gelu(found) if gelu else found


class Prepacked:
    """`linear` for a loop of many products with few rows, by the weights that a layer has when it is first asked.

    A product of 8 or 16 rows takes no longer than MKL takes to rearrange its weight, which it does at every call. On a
    CPU in float32 each weight is laid out once, at the layer's first product, in the order in which the product reads
    it; results differ from the layer's own by rounding. Elsewhere, where gradients are wanted, under autocast, and
    where a layer has hooks, the layer itself is called. Weights that change later are not followed: begin each loop
    with a new one.
    """

    def __init__(self) -> None:
        self._packed: dict[nn.Module, tuple[Tensor, Tensor | None, int] | None] = {}

    def __call__(self, layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return linear(layer, x, gelu=gelu)
        if layer not in self._packed:
            self._packed[layer] = _pack(layer)
        packed = self._packed[layer]
        if packed is None:
            return linear(layer, x, gelu=gelu)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return _packed_linear(rows, *packed, gelu).view(*x.shape[:-1], packed[2])


_packed_linear = torch.ops.visgen_fast_cpu.packed_linear.default


@torch.library.register_fake("visgen_fast_cpu::packed_linear")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int, gelu: bool) -> Tensor:
    return x.new_empty(len(x), outputs)


def _pack(layer: nn.Module) -> tuple[Tensor, Tensor | None, int] | None:
    """The layer's weight in panels [⌈out/32⌉, in, 32], its bias, and out; None where the layer has to be called."""
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    weight, bias = layer.weight.detach(), layer.bias
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    padded = F.pad(weight, (0, 0, 0, -len(weight) % _PANEL))
    panels = padded.unflatten(0, (-1, _PANEL)).transpose(1, 2).contiguous()
    return panels, None if bias is None else bias.detach().contiguous(), len(weight)

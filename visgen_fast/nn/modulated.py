"""What stands between the matrix products of a transformer: norms that a condition modulates, and activations.

Peebles and Xie, "Scalable diffusion models with transformers", 2023, section 3.2: r = x + gate·branch, then
norm(r)·(1 + scale) + shift. The sum that ends one branch and the norm that begins the next are one pass, so a branch
hands its sum on as a `ResidualStream`, across the border of two blocks too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _check as check
from .. import ops
from ..ops.modulate import Modulation
from .plain import is_plain, is_plain_linear

ACTIVATIONS = ("gelu_tanh", "gelu", "silu")
GATED_ACTIVATIONS = ("swiglu", "geglu")


class ResidualStream(NamedTuple):
    """x + gate·branch, not added up yet: x and branch [B, …, D]; gate as scale of `ops.modulated_norm`, None is 1.

    Without a branch it is x.
    """

    x: Tensor
    branch: Tensor | None = None
    gate: Modulation = None

    def total(self) -> Tensor:
        """The sum, where no norm follows: what one would return, in the type of x."""
        if self.branch is None:
            return self.x
        return ops.gated_residual_norm(self.x, self.branch, self.gate, None)[0]


class _Norm(nn.Module):
    """The norm over the last dimension, with its weight and bias where it is affine."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self, width: int, *, norm: Literal["layer", "rms"] = "layer", affine: bool = False, eps: float = 1e-6
    ) -> None:
        super().__init__()
        check.integer(width, "width", 1)
        check.one_of(norm, "norm", ("layer", "rms"))
        check.number(eps, "eps", positive=True)
        self.width, self.norm, self.eps = width, norm, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and norm == "layer" else None

    def check_rows(self, x: Tensor) -> None:
        """ValueError for rows of another width: without a weight nothing else would notice."""
        if isinstance(x, Tensor) and x.shape[-1:] != (self.width,):
            raise ValueError(f"x must have rows of the norm's width, {self.width}, got the shape {list(x.shape)}")

    def extra_repr(self) -> str:
        return f"{self.width}, norm={self.norm!r}, affine={self.weight is not None}, eps={self.eps}"


class ModulatedNorm(_Norm):
    """norm(x)·(1 + scale) + shift: `ops.modulated_norm`.

    width: D; norm: "layer" or "rms"; affine: whether the norm has a `weight`, and for "layer" a `bias`, as PyTorch's
    norms; eps: positive.
    """

    def forward(self, x: Tensor, scale: Modulation = None, shift: Modulation = None) -> Tensor:
        """x [B, …, D], returned in this shape; scale and shift broadcastable to it, or [B, D].

        ValueError for rows of another width.
        """
        self.check_rows(x)
        return ops.modulated_norm(x, scale, shift, norm=self.norm, weight=self.weight, bias=self.bias, eps=self.eps)


class GatedResidualNorm(_Norm):
    """The residual x + gate·branch, and the modulated norm of it: `ops.gated_residual_norm`.

    Its arguments are those of `ModulatedNorm`.
    """

    def forward(
        self,
        x: Tensor,
        branch: Tensor | None,
        gate: Modulation,
        scale: Modulation = None,
        shift: Modulation = None,
    ) -> tuple[Tensor, Tensor]:
        """x and branch [B, …, D]; gate, scale and shift broadcastable to them, or [B, D].

        With no branch the residual is x. ValueError for a gate without one, and for rows of another width.
        """
        self.check_rows(x)
        if branch is None:
            if gate is not None:
                raise ValueError("gate must be None where there is no branch that it could multiply")
            return x, ops.modulated_norm(
                x, scale, shift, norm=self.norm, weight=self.weight, bias=self.bias, eps=self.eps
            )
        return ops.gated_residual_norm(
            x, branch, gate, scale, shift, norm=self.norm, weight=self.weight, bias=self.bias, eps=self.eps
        )


class AdaptiveInstanceNorm(nn.Module):
    """Each channel normalized over its space, then scaled and shifted by a linear function of a style (AdaIN).

    channels: C; style: its width; eps: positive. At first the style scales by about 1 and shifts by about 0.

    Karras, Laine and Aila, "A style-based generator architecture for generative adversarial networks", 2019, eq. 1.
    """

    def __init__(self, channels: int, style: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        check.integer(channels, "channels", 1)
        check.integer(style, "style", 1)
        check.number(eps, "eps", positive=True)
        self.eps = eps
        self.linear = nn.Linear(style, 2 * channels)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, C, *space], returned in this shape; style [B, style]. ValueError for others."""
        if style.dim() != 2 or style.shape[1] != self.linear.in_features:
            raise ValueError(f"style must be [B, {self.linear.in_features}], got {list(style.shape)}")
        scale, shift = self.linear(style).chunk(2, dim=1)
        return ops.adaptive_instance_norm(x, scale, shift, eps=self.eps)


class Activation(nn.Module):
    """An activation by its name: "gelu_tanh", "gelu" or "silu"; or a gated one, "swiglu" or "geglu".

    A gated activation of [a, b], each half of the last dimension, is silu(a)·b or gelu(a)·b (Shazeer, "GLU variants
    improve transformer", 2020); with gate="second" a and b change places.
    """

    def __init__(self, kind: str, *, gate: Literal["first", "second"] = "first") -> None:
        super().__init__()
        check.one_of(kind, "kind", ACTIVATIONS + GATED_ACTIVATIONS)
        check.one_of(gate, "gate", ("first", "second"))
        self.kind, self.gate = kind, gate

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D], returned in this shape; for a gated activation [..., 2·H] to [..., H]."""
        return self._of(x, None)

    def after(self, linear: nn.Module, x: Tensor) -> Tensor:
        """The activation of a linear layer's output, whose bias is added in the same pass.

        Where either is more than that, as with hooks or an adapter in the layer's place, they are called in a row.
        """
        if not (is_plain_linear(linear) and is_plain(self)):
            return self(linear(x))
        return self._of(F.linear(x, linear.weight), linear.bias)

    def _of(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.kind in GATED_ACTIVATIONS:
            return ops.gated_activate(x, self.kind, bias, gate=self.gate)
        return ops.activate(x, self.kind, bias)

    def extra_repr(self) -> str:
        return repr(self.kind)


class FeedForward(nn.Sequential):
    """The MLP of a transformer: a linear layer to `hidden` features, an activation, and a linear layer back.

    kind: of the activation, as of `Activation`; a gated one has a first layer of twice as many features. bias: whether
    the layers have any. Its state dict is that of the three modules in a row.
    """

    def __init__(self, width: int, hidden: int, kind: str = "gelu_tanh", *, bias: bool = True) -> None:
        check.integer(width, "width", 1)
        check.integer(hidden, "hidden", 1)
        activation = Activation(kind)
        wide = 2 * hidden if kind in GATED_ACTIVATIONS else hidden
        super().__init__(nn.Linear(width, wide, bias), activation, nn.Linear(hidden, width, bias))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        first, activation, *rest = self
        if type(activation) is not Activation:  # others have put something in its place
            return super().forward(x)
        x = activation.after(first, x)
        for module in rest:
            x = module(x)
        return x

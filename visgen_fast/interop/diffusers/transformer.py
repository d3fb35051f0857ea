"""The norms and the MLPs of diffusers' transformers on our operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ... import ops
from ..._library import has_kernels
from ...nn.modulated import Activation
from .._norms import activation_kind, fits, is_plain_linear, norm_options
from .._replacement import Replacement, original_class

_Original = Callable[..., Any]


def apply_visgen_to_diffusers_transformer(model: nn.Module) -> Replacement:
    """Makes norms and MLPs of a transformer of diffusers run on our operations; state dicts and results stay.

    `AdaLayerNormZero`, `AdaLayerNormZeroSingle` and `AdaLayerNormContinuous` make norm, scale and shift one operation,
    and `FeedForward` the activation with the bias before it. Subclasses of other people's are left.

    Args:
        model: a transformer, such as `SD3Transformer2DModel`, `FluxTransformer2DModel` or `DiTTransformer2DModel`.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have diffusers' own code back.

    What differs, and what runs diffusers' own code, the page "Inside other codebases" of the documentation lists.

    Raises:
        ImportError: diffusers is not there.
        ValueError: model has none of these modules.
    """
    from diffusers.models import activations, normalization

    forwards: dict[type, Callable[..., Any]] = {
        normalization.AdaLayerNormZero: _zero,
        normalization.AdaLayerNormZeroSingle: _zero_single,
        normalization.AdaLayerNormContinuous: _continuous,
        activations.GELU: _gelu,
        activations.LinearActivation: _linear_activation,
        activations.GEGLU: _geglu,
        activations.SwiGLU: _swiglu,
    }
    found = [module for module in model.modules() if original_class(module) in forwards]
    if not found:
        names = ", ".join(cls.__name__ for cls in forwards)
        raise ValueError(f"model must have one of the modules that are replaced; got none: {names}")
    replacement = Replacement()
    for module in found:
        replacement.replace(module, "forward", forwards[original_class(module)])
    return replacement


def _zero(
    original: _Original,
    self: Any,
    x: Tensor,
    timestep: Tensor | None = None,
    class_labels: Tensor | None = None,
    hidden_dtype: Any = None,
    emb: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """x and gate, shift, scale, gate of the MLP."""
    if self.emb is not None:
        emb = self.emb(timestep, class_labels, hidden_dtype=hidden_dtype)
    shift, scale, *others = self.linear(self.silu(emb)).chunk(6, dim=1)
    return _normed(self.norm, x, scale, shift), *others


def _zero_single(original: _Original, self: Any, x: Tensor, emb: Tensor | None = None) -> tuple[Tensor, Tensor]:
    shift, scale, gate = self.linear(self.silu(emb)).chunk(3, dim=1)
    return _normed(self.norm, x, scale, shift), gate


def _continuous(original: _Original, self: Any, x: Tensor, conditioning_embedding: Tensor) -> Tensor:
    scale, shift = self.linear(self.silu(conditioning_embedding).to(x.dtype)).chunk(2, dim=1)
    return _normed(self.norm, x, scale, shift)


def _normed(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    options = norm_options(norm, x)
    if options is None or not fits(x, scale):
        return norm(x) * (1 + scale[:, None]) + shift[:, None]
    return ops.modulated_norm(x, scale, shift, **options)


def _gelu(original: _Original, self: Any, hidden_states: Tensor) -> Tensor:
    return _activated(original, self, hidden_states, {"none": "gelu", "tanh": "gelu_tanh"}.get(self.approximate))


def _linear_activation(original: _Original, self: Any, hidden_states: Tensor) -> Tensor:
    return _activated(original, self, hidden_states, activation_kind(self.activation))


def _geglu(original: _Original, self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs:
        return original(self, hidden_states, *args, **kwargs)
    return _activated(original, self, hidden_states, "geglu")


def _swiglu(original: _Original, self: Any, hidden_states: Tensor) -> Tensor:
    return _activated(original, self, hidden_states, "swiglu" if type(self.activation) is nn.SiLU else None)


def _activated(original: _Original, self: Any, x: Tensor, kind: str | None) -> Tensor:
    if kind is None or not is_plain_linear(self.proj) or not has_kernels(x.device):
        return original(self, x)
    return Activation(kind, gate="second").after(self.proj, x)

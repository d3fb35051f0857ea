"""The blocks of DiT and of SiT, which share their code, and their last layer, on our modulated norms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._library import has_kernels
from ..nn.modulated import Activation
from ._noising import Agreement
from ._norms import activation_kind, fits, is_plain, is_plain_linear, norm_options
from ._own_code import say_once
from ._replacement import Replacement, find_classes, original_class

_BLOCK = {"norm1", "attn", "norm2", "mlp", "adaLN_modulation"}
_LAST = {"norm_final", "linear", "adaLN_modulation"}
# What follows the activation of timm's `Mlp`, by what a version of it is made of.
_MLPS = {
    frozenset(("fc1", "act", "drop1", "norm", "fc2", "drop2")): ("drop1", "norm", "fc2", "drop2"),
    frozenset(("fc1", "act", "drop", "fc2")): ("drop", "fc2", "drop"),
}
_agrees = Agreement()


def replace_blocks(replacement: Replacement, model: nn.Module, block: str, codebase: str) -> None:
    """Makes the blocks of the class `block` in a model, and its last layer, run on our operations."""
    blocks = find_classes(model, block, ("forward",))
    last = find_classes(model, "FinalLayer", ("forward",), needed=False)
    for owners, names, forward in ((blocks, _BLOCK, _block), (last, _LAST, _last_layer)):
        for owner in owners:
            if set(owner._modules) == names and _computes(owner, *_trials(owner, forward)):
                replacement.replace(owner, "forward", forward)
            else:
                reason = f"it computes something else than {codebase}'s"
                say_once(f"{original_class(owner).__name__}.forward", codebase, reason)
    for mlp in (owner.mlp for owner in blocks if hasattr(owner, "mlp")):
        if frozenset(mlp._modules) in _MLPS and _computes(mlp, *_trials_of_mlp(mlp)):
            replacement.replace(mlp, "forward", _mlp)


def _computes(owner: Any, *trials: Callable[[], Any]) -> bool:
    """Whether ours computes what the module does, which has no parameters that the trials would not see."""
    return not owner._parameters and not owner._buffers and _agrees(owner, *trials)


def _block(original: Callable[..., Tensor], self: Any, x: Tensor, c: Tensor, *others: Any, **named: Any) -> Tensor:
    """x: [B, N, D]; c: [B, D]."""
    norms = norm_options(self.norm1, x), norm_options(self.norm2, x)
    if others or named or norms[0] is None or norms[1] is None:
        return original(self, x, c, *others, **named)
    modulation = self.adaLN_modulation(c)
    if not fits(x, modulation):
        return original(self, x, c)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, dim=1)
    branch = self.attn(ops.modulated_norm(x, scale_1, shift_1, **norms[0]))
    x, h = ops.gated_residual_norm(x, branch, gate_1, scale_2, shift_2, **norms[1])
    return torch.addcmul(x, gate_2[:, None], self.mlp(h))


def _last_layer(original: Callable[..., Tensor], self: Any, x: Tensor, c: Tensor, *others: Any, **named: Any) -> Tensor:
    norm = norm_options(self.norm_final, x)
    if others or named or norm is None:
        return original(self, x, c, *others, **named)
    modulation = self.adaLN_modulation(c)
    if not fits(x, modulation):
        return original(self, x, c)
    shift, scale = modulation.chunk(2, dim=1)
    return self.linear(ops.modulated_norm(x, scale, shift, **norm))


def _mlp(original: Callable[..., Tensor], self: Any, x: Tensor) -> Tensor:
    kind = activation_kind(self.act)
    if kind is None or not is_plain(self.act) or not is_plain_linear(self.fc1) or not has_kernels(x.device):
        return original(self, x)
    x = Activation(kind).after(self.fc1, x)
    for name in _MLPS[frozenset(self._modules)]:
        x = getattr(self, name)(x)
    return x


def _trials(owner: Any, forward: Callable[..., Tensor]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Its code and ours with simple functions in the place of its layers: gates that begin at 0 would hide much."""
    functions = {"attn": torch.sin, "mlp": torch.cos, "linear": torch.tan}
    cls: Any = original_class(owner)

    def trial(compute: Callable[..., Tensor]) -> dict[str, Tensor]:
        x, c = torch.randn(2, 3, _width(owner)), torch.randn(2, 1)
        modulation = torch.randn(2, (6 if forward is _block else 2) * x.shape[-1])
        layers = {name: _Function(function) for name, function in functions.items() if name in owner._modules}
        layers["adaLN_modulation"] = _Function(lambda c: c * modulation)
        return {"output": compute(_with(owner, layers), x, c)}

    return lambda: trial(cls.forward), lambda: trial(functools.partial(forward, _unserved))


def _trials_of_mlp(owner: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same with small layers."""
    cls: Any = original_class(owner)

    def trial(compute: Callable[..., Tensor]) -> dict[str, Tensor]:
        layers = {"fc1": nn.Linear(3, 5), "fc2": nn.Linear(5, 3)}
        return {"output": compute(_with(owner, layers), 3 * torch.randn(16, 3))}

    return lambda: trial(cls.forward), lambda: trial(functools.partial(_mlp, _unserved))


def _with(owner: Any, layers: Mapping[str, nn.Module]) -> Any:
    """A module with the owner's code and other layers."""
    made: Any = object.__new__(original_class(owner))
    vars(made).update(vars(owner) | {"_modules": owner._modules | layers})
    return made


def _width(owner: Any) -> int:
    norm = owner.norm1 if hasattr(owner, "norm1") else owner.norm_final
    return norm.normalized_shape[0]


def _unserved(*_: Any) -> Tensor:
    raise NotImplementedError("this is tried on what ours serves")


class _Function(nn.Module):
    """A function as a module, whatever else it is called with."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.function(x)

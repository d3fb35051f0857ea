"""Whether a module is no more than its weights, so that an operation may stand in the place of its code."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import nn


def is_plain(module: nn.Module) -> bool:
    """Whether nobody would notice that its code is passed by: no hooks, and no method of this instance alone."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return not any(hooks) and "forward" not in vars(module)


def is_plain_linear(layer: Any) -> TypeGuard[nn.Linear]:
    """Whether it is no more than a weight and a bias: no adapter, and nothing that changes them on the way."""
    return type(layer) is nn.Linear and is_plain(layer)

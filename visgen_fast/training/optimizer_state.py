"""The state of optimizers as named tensors: {"<parameter>.<state>": tensor}."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def tensors(optimizers: Sequence[torch.optim.Optimizer], module: nn.Module) -> dict[str, Tensor]:
    """The state of the optimizers of `module`'s parameters."""
    return {
        f"{name}.{key}": value
        for name, parameter in module.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load(optimizers: Sequence[torch.optim.Optimizer], module: nn.Module, state: dict[str, Tensor]) -> None:
    """Gives the optimizers, made for parameters of `module`, the state that `tensors` took.

    Raises ValueError where it is not theirs: each parameter has a tensor of every kind that others have, shaped as
    itself but for the number of steps, or none at all if it has never had a gradient.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    ordered = [
        [parameter for group in optimizer.param_groups for parameter in group["params"]] for optimizer in optimizers
    ]
    by_name: dict[str, dict[str, Tensor]] = {names[parameter]: {} for own in ordered for parameter in own}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if name not in by_name:
            raise ValueError(f"has {key} of a weight that is not trained")
        by_name[name][kind] = tensor
    kinds = {kind for found in by_name.values() for kind in found}
    for optimizer, own in zip(optimizers, ordered, strict=True):
        for parameter in own:
            _check(names[parameter], parameter, by_name[names[parameter]], kinds)
        found = {place: by_name[names[parameter]] for place, parameter in enumerate(own)}
        # A weight that has never had a gradient has no state, rather than an empty one.
        given = {place: state for place, state in found.items() if state}
        optimizer.load_state_dict({"state": given, "param_groups": optimizer.state_dict()["param_groups"]})


def _check(name: str, parameter: Tensor, found: dict[str, Tensor], kinds: set[str]) -> None:
    missing = sorted(kinds - found.keys()) if found else []
    if missing:
        raise ValueError(f"lacks {name}.{missing[0]}")
    for kind, tensor in found.items():
        expected = () if kind == "step" else tuple(parameter.shape)
        if tensor.shape != expected or not tensor.is_floating_point():
            raise ValueError(f"has {name}.{kind} of shape {tuple(tensor.shape)} and {tensor.dtype}, not {expected}")

"""Forwards that must leave a module as it is: activation checkpointing's second ones, and those of `torch.func`.

Under activation checkpointing (`torch.utils.checkpoint`, Chen et al., "Training deep nets with sublinear memory cost",
2016) a forward runs again in the backward pass, to have its activations. A codebook that learns in its forward has
moved on by then: the second run must neither learn nor count again, and must find the codebook of the first.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# For each checkpointed call, what each module kept in it, in order; and for each run of it again, how many were taken.
_kept: WeakKeyDictionary[Any, dict[int, list[Tensor]]] = WeakKeyDictionary()
_taken: WeakKeyDictionary[Any, dict[int, int]] = WeakKeyDictionary()


def may_have_side_effects() -> bool:
    """Whether a forward that runs now may learn and count."""
    return not (is_transformed() or is_recomputation())


def is_transformed() -> bool:
    """Whether one of `torch.func`'s transforms is at work, which allow no side effects."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def is_recomputation() -> bool:
    """Whether a forward that runs now is one of the backward pass, which has run before."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1 or "target_frame_ref" in _hook()[1]


def as_in_forward(module: nn.Module, tensor: Tensor) -> Tensor:
    """`tensor`, a copy of what the module is about to change: in a recomputation, with the values of its forward.

    RuntimeError in a recomputation whose forward cannot be told: under `use_reentrant=True`, or checkpoints in one
    another.
    """
    if torch.compiler.is_compiling():
        return tensor
    hook, variables = _hook()
    if not is_recomputation():
        if "frame" in variables:
            _kept.setdefault(variables["frame"], defaultdict(list))[id(module)].append(tensor.detach())
        return tensor
    frame = variables["target_frame_ref"]() if "target_frame_ref" in variables else None
    kept = _kept.get(frame, {}).get(id(module), []) if frame is not None else []
    number = _taken.setdefault(hook, defaultdict(int))[id(module)] if kept else 0
    if number >= len(kept):
        raise RuntimeError(
            f"{type(module).__name__} learns in its forward, and activation checkpointing can repeat that only with "
            "use_reentrant=False and without checkpoints in one another; else call eval() or requires_grad_(False)"
        )
    _taken[hook][id(module)] += 1
    with torch.no_grad():
        return tensor.copy_(kept[number])


def refuse_recomputation(module: nn.Module) -> None:
    """RuntimeError in a recomputation of a module that learns in its forward and kept nothing of it."""
    if is_recomputation():
        raise RuntimeError(
            f"{type(module).__name__} learns in its forward, which activation checkpointing runs twice: "
            "leave it out of the checkpoint, or call eval()"
        )


def _hook() -> tuple[Any, dict[str, Any]]:
    """PyTorch's hook on what is saved for the backward pass, and its variables.

    In a checkpointed call, `frame` among them stands for the call; where that runs again, `target_frame_ref` refers to
    it.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None:
        return None, {}
    pack = inspect.unwrap(hooks[0])
    if not inspect.isfunction(pack) or pack.__module__ != "torch.utils.checkpoint":
        return None, {}
    return pack, dict(inspect.getclosurevars(pack).nonlocals)

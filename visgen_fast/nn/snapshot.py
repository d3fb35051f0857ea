"""A copy of what is about to change in place, which compiled graphs keep for their backward pass.

Between `torch.compile`'s forward and backward graphs PyTorch saves as little as it can and computes the rest again, in
torch 2.13 from inputs that the forward graph has changed since. It leaves alone what operations give that it does not
know; but in a region of activation checkpointing it computes all of them again, and a checkpoint around the graph runs
all of it again. There this operation refuses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import traceback

from .side_effects import is_recomputation

_REFUSED = (
    "a codebook cannot learn under activation checkpointing and torch.compile, which both run its forward again: "
    "use one of them, eval() or requires_grad_(False)"
)


def snapshot(tensor: Tensor) -> Tensor:
    """A copy, differentiable. RuntimeError where a compiled graph meets activation checkpointing."""
    return _snapshot(tensor) if torch.compiler.is_compiling() else tensor.clone()


@torch.library.custom_op("visgen_fast::snapshot", mutates_args=())
def _snapshot(tensor: Tensor) -> Tensor:
    if is_recomputation():
        raise RuntimeError(_REFUSED)
    return tensor.clone()


@_snapshot.register_fake
def _(tensor: Tensor) -> Tensor:
    if "recompute" in traceback.get_current_meta():
        raise RuntimeError(_REFUSED)
    return torch.empty_like(tensor)


def _backward(ctx: Any, gradient: Tensor) -> Tensor:
    return gradient


_snapshot.register_autograd(_backward)

"""Activations that the backward pass computes again instead of keeping them.

"cheap" keeps what is dear to compute, the results of matrix products and of attention, and computes the norms, gates
and activations between them again: selective activation checkpointing (Korthikanti et al., "Reducing activation
recomputation in large transformer models", 2022, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["cheap"] | None
_Result = TypeVar("_Result")

_aten = torch.ops.aten
_KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def check_recompute(recompute: Any) -> None:
    """ValueError for what is neither "cheap" nor None."""
    if recompute not in (None, "cheap"):
        raise ValueError(f"recompute must be 'cheap' or None, got {recompute!r}")


def run_recomputing(recompute: Recompute, function: Callable[..., _Result], *arguments: Any) -> _Result:
    """function(*arguments), of which "cheap" keeps the results of matrix products and attention for the backward alone.

    None keeps what PyTorch keeps, and so does "cheap" within the transforms of `torch.func`, which cannot checkpoint.
    What is drawn at random is drawn the same again. The backward pass runs once: a second one through the same graph,
    as second derivatives need it, is an error of PyTorch's.
    """
    if recompute is None or not torch.is_grad_enabled() or _is_transformed():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=_contexts)


def _is_transformed() -> bool:
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_contexts = partial(create_selective_checkpoint_contexts, _policy)

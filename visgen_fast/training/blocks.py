"""The blocks that networks are made of: what is compiled, checkpointed and sharded on its own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from .settings import TrainingSettings
from .system import System


def blocks_of(system: System) -> list[nn.Module]:
    """The blocks of a system's trained networks, each before those inside it.

    A block is an element of an `nn.ModuleList` that has weights to train, and no module in it is `replicated`, as
    codebooks are. It is called by its forward.
    """
    frozen = {module for name in system.frozen for module in system.get_submodule(name).modules()}
    lists = [module for module in system.modules() if isinstance(module, nn.ModuleList) and module not in frozen]
    elements = dict.fromkeys(element for some in lists for element in some)
    return [element for element in elements if _is_block(element)]


def replicated(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that say of themselves that every rank holds them whole."""
    return [module for module in modules if getattr(module, "replicated", False)]


def prepare_blocks(system: System, settings: TrainingSettings) -> None:
    """Has the innermost blocks compiled, and has them compute their activations again, as the settings say."""
    blocks = dict.fromkeys(blocks_of(system))
    for block in blocks:
        if any(within in blocks for within in block.modules() if within is not block):
            continue
        if settings.compile:
            setattr(block, "forward", torch.compile(block.forward))  # noqa: B010  of this one object
        if settings.checkpoint_activations:
            again = partial(checkpoint, block.forward, use_reentrant=False, context_fn=_with_the_same_attention)
            setattr(block, "forward", again)  # noqa: B010


def _with_the_same_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What a block is computed in, and what it is computed again in, by which time other kernels may be allowed."""
    return nullcontext(), _AllowedAttention()


class _AllowedAttention(AbstractContextManager[None]):
    """Inside, the kernels of attention that were allowed when this was made. May be entered several times."""

    def __init__(self) -> None:
        now = torch.backends.cuda
        kernels = {
            SDPBackend.FLASH_ATTENTION: now.flash_sdp_enabled(),
            SDPBackend.EFFICIENT_ATTENTION: now.mem_efficient_sdp_enabled(),
            SDPBackend.CUDNN_ATTENTION: now.cudnn_sdp_enabled(),
            SDPBackend.MATH: now.math_sdp_enabled(),
        }
        self._allowed = [kernel for kernel, allowed in kernels.items() if allowed]
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(sdpa_kernel(self._allowed))
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


def _is_block(module: nn.Module) -> bool:
    learns = any(parameter.requires_grad for parameter in module.parameters())
    return learns and not isinstance(module, nn.ModuleList) and not replicated(module.modules())

"""Our operations in the place of SiT's code."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._adaptive_blocks import replace_blocks
from .._replacement import Replacement, find_classes
from .training import training_losses

_TRANSPORT = ("training_losses", "sample", "check_interval", "get_drift", "get_score")


def apply_visgen_to_sit(target: Any = None) -> Replacement:
    """Makes `training_losses` of SiT's `Transport`, or its network, run on our operations.

    Arguments, draws, state dicts and results stay.

    x_t is one operation and the weighted error another, which makes its target on the way, and its gradient in the same
    pass. All paths (Linear, GVP, VP), predictions (velocity, noise, score) and weights are served.

    In a network, each norm, its scale and shift, and the gated residual before it are one operation.

    Args:
        target: a transport, as `create_transport` makes it, or a network with `SiTBlock`s in it; by default the classes
            of transports are replaced, in all modules imported so far.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the original code back.

    What differs, and what runs the original code, the page "Inside other codebases" of the documentation lists.

    Raises:
        ValueError: target is neither, or no class of that name is imported.
    """
    replacement = Replacement()
    if isinstance(target, nn.Module) and find_classes(target, "SiTBlock", ("forward",), needed=False):
        replace_blocks(replacement, target, "SiTBlock", "SiT")
        return replacement
    if target is not None and not all(hasattr(target, method) for method in _TRANSPORT):
        raise ValueError(f"target must be a Transport or a network of SiT's, got {type(target).__name__}")
    for owner in [target] if target is not None else find_classes(None, "Transport", _TRANSPORT):
        replacement.replace(owner, "training_losses", training_losses)
    return replacement

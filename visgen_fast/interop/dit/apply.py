"""Our operations in the place of DiT's code."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._adaptive_blocks import replace_blocks
from .._replacement import Replacement, find_classes
from .training import training_losses

_DIFFUSION = ("training_losses", "q_sample", "q_posterior_mean_variance", "p_mean_variance", "_vb_terms_bpd")


def apply_visgen_to_dit(target: Any = None) -> Replacement:
    """Makes `training_losses` of DiT's `GaussianDiffusion`, or its network, run on our operations.

    Arguments, draws, state dicts and results stay.

    x_t is one operation and the mean squared error another, which makes its gradient in the same pass. The term of the
    learned variance is the same number from a few passes over the images instead of some eighty, and the likelihood of
    pixels, which counts at the first timestep only, is computed for its images only. No coefficient goes to the device
    in a step. OpenAI's improved-diffusion and guided-diffusion, where the class comes from, are served as well.

    In a network, each norm, its scale and shift, and the gated residual before it are one operation.

    Args:
        target: a diffusion, as `create_diffusion` makes it, or a network with `DiTBlock`s in it; by default the classes
            of diffusions are replaced, in all modules imported so far.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the original code back.

    What differs, and which settings run the original code, the page "Inside other codebases" of the documentation
    lists.

    Raises:
        ValueError: target is neither, or no class of that name is imported.
    """
    replacement = Replacement()
    if isinstance(target, nn.Module) and find_classes(target, "DiTBlock", ("forward",), needed=False):
        replace_blocks(replacement, target, "DiTBlock", "DiT")
        return replacement
    if target is not None and not all(hasattr(target, method) for method in _DIFFUSION):
        raise ValueError(f"target must be a GaussianDiffusion or a network of DiT's, got {type(target).__name__}")
    for owner in [target] if target is not None else find_classes(None, "GaussianDiffusion", _DIFFUSION):
        replacement.replace(owner, "training_losses", training_losses)
    return replacement

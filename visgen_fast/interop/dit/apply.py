"""Our operations in the place of DiT's code."""

from __future__ import annotations

from typing import Any

from .._replacement import Replacement, find_classes
from .training import training_losses

_DIFFUSION = ("training_losses", "q_sample", "q_posterior_mean_variance", "p_mean_variance", "_vb_terms_bpd")


def apply_visgen_to_dit(target: Any = None) -> Replacement:
    """Makes `training_losses` of DiT's `GaussianDiffusion` run on our operations; arguments, draws and results stay.

    x_t is one operation and the mean squared error another, which makes its gradient in the same pass. The term of the
    learned variance is the same number from a few passes over the images instead of some eighty, and the likelihood of
    pixels, which counts at the first timestep only, is computed for its images only. No coefficient goes to the device
    in a step. OpenAI's improved-diffusion and guided-diffusion, where the class comes from, are served as well.

    Args:
        target: a diffusion, as `create_diffusion` makes it; by default the classes are replaced, in all modules
            imported so far.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have the original code back.

    What differs, and which settings run the original code, the page "Inside other codebases" of the documentation
    lists.

    Raises:
        ValueError: target is no such diffusion, or no class of that name is imported.
    """
    replacement = Replacement()
    if target is not None and not all(hasattr(target, method) for method in _DIFFUSION):
        raise ValueError(f"target must be a GaussianDiffusion of DiT's, got {type(target).__name__}")
    for owner in [target] if target is not None else find_classes(None, "GaussianDiffusion", _DIFFUSION):
        replacement.replace(owner, "training_losses", training_losses)
    return replacement

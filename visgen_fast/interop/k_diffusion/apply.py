"""Our samplers in the place of k-diffusion's."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .._own_code import say_once
from .._replacement import Replacement
from .run import Run
from .samplers import SAMPLERS, Sampler

NAMES = tuple(SAMPLERS)


def apply_visgen_to_k_diffusion(sampling: ModuleType | None = None) -> Replacement:
    """Makes k-diffusion's samplers take each step as one operation; arguments, callbacks, noise and results stay.

    All samplers of fixed steps are replaced: `sample_euler`, `sample_euler_ancestral`, `sample_heun`, `sample_dpm_2`,
    `sample_dpm_2_ancestral`, `sample_lms`, `sample_dpm_fast`, `sample_dpmpp_2s_ancestral`, `sample_dpmpp_sde`,
    `sample_dpmpp_2m`, `sample_dpmpp_2m_sde` and `sample_dpmpp_3m_sde`; the adaptive one stays. No step reads a number
    from the device.

    Args:
        sampling: the module that holds them, for a copy inside another codebase; by default `k_diffusion.sampling`.
            Functions whose parameters are not k-diffusion's are left. So are names that were imported from the module
            before.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have k-diffusion's own back.

    What differs from k-diffusion, and which arguments run its own code, the page "Inside other codebases" of the
    documentation lists.

    Raises:
        ImportError: k-diffusion is not there.
        ValueError: the module has none of these samplers.
    """
    if sampling is None:
        sampling = importlib.import_module("k_diffusion.sampling")
    replacement, found = Replacement(), False
    for name, sampler in SAMPLERS.items():
        theirs = getattr(sampling, name, None)
        if theirs is None or not set(inspect.signature(theirs).parameters) <= sampler.parameters:
            continue
        found = True
        if not hasattr(theirs, "replaced_by"):
            setattr(sampling, name, _ours(sampling, theirs, sampler))
            replacement._undo.append(functools.partial(setattr, sampling, name, theirs))
    if not found:
        raise ValueError(f"{sampling.__name__} must have one of the samplers that are replaced: " + ", ".join(NAMES))
    return replacement


def _ours(sampling: ModuleType, theirs: Callable[..., Tensor], sampler: Sampler) -> Callable[..., Tensor]:
    signature = inspect.signature(theirs)

    @functools.wraps(theirs)
    @torch.no_grad()
    def sample(*arguments: Any, **options: Any) -> Tensor:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        try:
            run = Run(sampling, sampler, bound.arguments)
        except ValueError as reason:
            say_once(theirs.__name__, "k-diffusion", str(reason), stacklevel=4)
            return theirs(*arguments, **options)
        return run()

    sample.replaced_by = Run  # type: ignore[attr-defined]
    return sample

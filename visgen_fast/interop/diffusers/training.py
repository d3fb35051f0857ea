"""What training scripts take from diffusers' schedulers: noised images, velocities, and the signal-to-noise ratio."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import ops
from .._noising import coefficients, mixed, small, unfit
from .._own_code import say_once
from .._replacement import Replacement

# The arguments of those methods that mix images and noise, less self; a few schedulers mean something else by the name.
_METHODS = {
    "add_noise": ("original_samples", "noise", "timesteps"),
    "get_velocity": ("sample", "noise", "timesteps"),
    "scale_noise": ("sample", "timestep", "noise"),
}


def apply_visgen_to_diffusers_training(scheduler: Any = None) -> Replacement:
    """Makes `add_noise`, `get_velocity` and `scale_noise` of diffusers' schedulers one operation; results stay.

    They read images and noise once and write the result once, with a gradient. Coefficients are what the scheduler's
    own method makes of two numbers, in float32 where diffusers would round them to 16 bits. `compute_snr` of
    `diffusers.training_utils` looks its timesteps up before it computes with them.

    Args:
        scheduler: its methods are replaced; by default those of all of diffusers' schedulers, and `compute_snr` in all
            modules that have imported it so far.

    Returns:
        What to call `revert()` on, or to use in a `with`, to have diffusers' own back.

    What differs from diffusers, and what runs its own code, the page "diffusers" of the documentation lists.

    Raises:
        ImportError: diffusers is not there.
        ValueError: the scheduler has none of these methods.
    """
    import diffusers
    from diffusers import training_utils

    replacement = Replacement()
    if scheduler is not None:
        found = [name for name in _METHODS if _mixes(getattr(type(scheduler), name, None), name)]
        if not found:
            raise ValueError(f"scheduler must have one of {', '.join(_METHODS)}, got {type(scheduler).__name__}")
        for name in found:
            replacement.replace(scheduler, name, _OURS[name])
        return replacement
    every = [getattr(diffusers.schedulers, name, None) for name in dir(diffusers.schedulers)]
    classes = [base for cls in every if isinstance(cls, type) for base in cls.__mro__ if "_stock" not in vars(base)]
    for cls in dict.fromkeys(classes):
        for name in _METHODS:
            if _mixes(vars(cls).get(name), name):
                replacement.replace(cls, name, _OURS[name])
    stock = training_utils.compute_snr
    if stock is not _compute_snr:
        _put("compute_snr", stock, _compute_snr)
        replacement._undo.append(functools.partial(_put, "compute_snr", _compute_snr, stock))
    return replacement


def _mixes(method: Any, name: str) -> bool:
    """Whether a method is one of diffusers' own that mix images and noise."""
    if not callable(method) or not method.__module__.startswith("diffusers."):
        return False
    return tuple(inspect.signature(method).parameters) == ("self", *_METHODS[name])


def _put(name: str, old: Any, new: Any) -> None:
    """In all modules that have imported it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is old:
            setattr(module, name, new)


def _mixing(name: str) -> Callable[..., Tensor]:
    """What takes the place of the method of this name."""
    images_name = _METHODS[name][0]
    (times_name,) = set(_METHODS[name]) - {images_name, "noise"}

    def ours(original: Any, self: Any, *arguments: Any, **options: Any) -> Tensor:
        given = dict(zip(_METHODS[name], arguments, strict=False)) | options

        def theirs(images: Any, noise: Any) -> Tensor:
            return original(self, **given | {images_name: images, "noise": noise})

        if given.keys() != set(_METHODS[name]) or len(arguments) + len(options) != len(given):
            return original(self, *arguments, **options)
        return _mixture(f"{type(self).__name__}.{name}", theirs, given[images_name], given["noise"], given[times_name])

    return ours


_OURS = {name: _mixing(name) for name in _METHODS}


def _mixture(name: str, theirs: Callable[[Tensor, Any], Tensor], images: Tensor, noise: Any, times: Any) -> Tensor:
    """theirs(images, noise), which is a·images + b·noise, for a and b of the times."""
    reason = unfit(images, noise)
    if not reason and isinstance(times, Tensor) and times.dim() >= images.dim():
        reason = "there is a time for each column"
    if not reason and small(images, noise):
        return theirs(images, noise)
    if not reason:
        dtype = torch.promote_types(images.dtype, torch.float32)
        result = mixed(theirs, images, dtype)
        rows = coefficients(result)
        if all(size in (1, whole) for size, whole in zip(rows.shape[:-1], images.shape, strict=True)):
            if not images.dtype == noise.dtype == dtype:
                result = mixed(lambda x, z: theirs(x.to(images.dtype), z.to(noise.dtype)), images, dtype)
            return ops.add_noise(images, rows, noise=noise, out_dtype=result.dtype)
        reason = "there are more times than images"
    say_once(name, "diffusers", reason, stacklevel=4)
    return theirs(images, noise)


def _compute_snr(noise_scheduler: Any, timesteps: Tensor) -> Tensor:
    """The signal-to-noise ratio at the timesteps, float32 of their shape."""
    signal = noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return (signal / (1 - signal)).float()

"""What adapters of training code share: how they find a codebase's coefficients, and when our operations may serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._check import FLOATS
from .._library import has_kernels

SMALL = 2**18  # elements


def unfit(images: Any, noise: Any) -> str:
    """Why our operations cannot take these images and this noise; or nothing."""
    if type(images) is not Tensor or type(noise) is not Tensor:
        return "images and noise must be plain tensors"
    if images.dtype not in FLOATS or noise.dtype not in FLOATS or images.shape != noise.shape:
        return "images and noise must be floating-point, and of one shape"
    if (images.dtype == torch.float64) != (noise.dtype == torch.float64) or images.device != noise.device:
        return "images and noise differ in precision or device"
    if not 2 <= images.dim() <= 9:
        return "images must have 2 to 9 dimensions"
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return "it is transformed or compiled"
    if not has_kernels(images.device):
        return f"there is no compiled library for {images.device.type}"
    return ""


def small(images: Tensor, noise: Tensor) -> bool:
    """Whether finding coefficients takes longer than the passes that are saved; 16 bits would be computed otherwise."""
    return images.numel() < SMALL and images.dtype == noise.dtype and images.dtype.itemsize >= 4


def mixed(mix: Callable[[Tensor, Tensor], Any], images: Tensor, dtype: torch.dtype) -> Any:
    """What `mix` makes of images and noise of few pixels, from which `coefficients` are read.

    They have as many samples and dimensions as `images`, and two columns: images (1, 0) and noise (0, 1).
    """
    noise = torch.arange(2, dtype=dtype, device=images.device).expand(len(images), *[1] * (images.dim() - 2), 2)
    return mix(1 - noise, noise)


def coefficients(*results: Tensor) -> Tensor:
    """Rows [*s, 4] for `ops.diffuse` of a result a·x + b·z of `mixed`, and of a second one, c·x + d·z, if there is."""
    four = [column for result in results for column in result.split(1, dim=-1)]
    zero = torch.zeros_like(four[0])
    return torch.stack([*four, zero, zero][:4], dim=-1)


class Agreement:
    """Whether ours computes what a codebase's object does, found out once for each object by trying both.

    Copies of a codebase keep the names of its classes and change what they compute.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def __call__(self, owner: Any, theirs: Callable[[], dict[str, Tensor]], ours: Callable[[], Any]) -> bool:
        """Whether both give the same names and numbers from the same seed; torch's generator stays where it was."""
        if owner not in self._known:
            self._known[owner] = _same(_seeded(theirs), _seeded(ours))
        return self._known[owner]


def _seeded(function: Callable[[], Any]) -> Any:
    # Of the CPU's generator alone; torch.manual_seed would seed those of all devices.
    with torch.device("cpu"), torch.random.fork_rng(devices=()), torch.no_grad():
        torch.default_generator.manual_seed(0)
        try:
            return function()
        except Exception:  # A copy may expect what it is not given here.
            return None


def _same(theirs: Any, ours: Any) -> bool:
    if not isinstance(theirs, dict) or not isinstance(ours, dict) or list(theirs) != list(ours):
        return False
    return all(
        theirs[name].shape == ours[name].shape
        and theirs[name].dtype == ours[name].dtype
        and torch.allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-5)
        for name in theirs
    )

"""Networks that a checkpoint's settings describe are counted before they are built.

The settings may ask for any width and depth; the weights beside them say how large the network really is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ..errors import UserError
from ..untrusted import MOST_ELEMENTS_BESIDE_WEIGHTS, MOST_MODULES_PER_WEIGHT


class _TooLarge(Exception):
    pass


def require_fit(build: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Raises `UserError` where `build` would make a network with far more than these weights. Allocates nothing.

    Building goes on to wherever it is too large; an error that it meets before is left for building in earnest.
    """
    elements = 2 * sum(tensor.numel() for tensor in weights.values()) + MOST_ELEMENTS_BESIDE_WEIGHTS
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # of loading weights that other runs lend, into what holds nothing
            with _counted(elements, MOST_MODULES_PER_WEIGHT * (len(weights) + 10)):
                build()
    except _TooLarge as error:
        raise UserError("the checkpoint's settings describe a far larger network than its weights are of") from error
    except (ArithmeticError, RuntimeError, ValueError):
        pass


@contextmanager
def _counted(elements: int, modules: int) -> Iterator[None]:
    """Inside, `_TooLarge` is raised once so many elements of tensors, or modules and tensors, are in new modules."""
    left = {"elements": elements, "modules": modules}

    def count(module: nn.Module, name: str, value: object) -> None:
        left["modules"] -= 1
        left["elements"] -= value.numel() if isinstance(value, Tensor) else 0
        if min(left.values()) < 0:
            raise _TooLarge

    handles = [
        hooks.register_module_module_registration_hook(count),
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

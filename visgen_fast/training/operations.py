"""Floating-point operations of a network, as it does them, and how many a device can do in a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_LEAST_SECONDS, _LARGEST = 2e-3, 8192

_aten = torch.ops.aten
_COUNTED = {
    **flop_registry,
    # Of which torch counts those for GPUs alone.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


class CountedOperations(TorchDispatchMode):
    """While this lasts, adds up the `total` of matrix products, convolutions and attention, two for each product.

    What the backward pass computes again, to have kept less, is no work of the model's and does not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self._backward = 0, False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Around a backward pass."""
        self._backward = True
        yield
        self._backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = _COUNTED.get(func._overloadpacket)
        # Only what is computed again is differentiated in a backward pass.
        if count is not None and not (self._backward and torch.is_grad_enabled()):
            self.total += count(*args, **kwargs, out_val=out)
        return out


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The most operations a second that products of square matrices do, of growing size until one takes 2 ms."""
    best, side = 0.0, 256
    while True:
        square = torch.ones(side, side, device=device, dtype=dtype)
        fastest = min(_seconds_of_a_product(square) for _ in range(3))  # the first one loads its kernel
        best = max(best, 2 * side**3 / fastest)
        if fastest > _LEAST_SECONDS or side == _LARGEST:
            return best
        side *= 2


def _seconds_of_a_product(square: torch.Tensor) -> float:
    began = time.perf_counter()
    product = square @ square
    if product.device.type != "cpu":
        torch.accelerator.synchronize(product.device)
    return time.perf_counter() - began

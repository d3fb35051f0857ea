"""Calling networks: what they are asked with, and what they may answer; one sentence for what does not fit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import _check as check
from ..nn.conditions import AnyCondition, check_condition


def check_asked(model: Any, labels: AnyCondition, seeds: Any) -> None:
    """TypeError or ValueError unless these are a function, a condition of B samples, and int64 seeds [B]."""
    check_callable(model, "model", "(x, t, labels)")
    check.seeds(seeds)
    check_condition(labels, "labels", seeds.shape[0])


def check_callable(value: Any, name: str, arguments: str) -> None:
    """TypeError, which says with which arguments it is called, unless it can be."""
    if not callable(value):
        raise TypeError(f"{name} must be a function {name}{arguments}, got {type(value).__name__}")


def parted(output: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a network predicts for x, and the variance that it learned beside it in as many channels, where it did.

    TypeError or ValueError for anything but a tensor of x's shape, or of twice the channels.

    Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", 2021.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"the model must return a tensor of shape {list(x.shape)}, got {type(output).__name__}")
    if output.shape == x.shape:
        return output, None
    if x.dim() == 1 or output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
        raise ValueError(
            f"the model must return a tensor of the shape that it is given, {list(x.shape)}, or of twice the channels, "
            f"got {list(output.shape)}"
        )
    prediction, variance = output.chunk(2, 1)
    return prediction, variance

"""What the families' lists of contenders share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .capability import instruction_sets
from .workload import Contender


def ours(run: Callable[[Any], Any], accuracy: Callable[[Any], Any], device: str) -> list[Contender]:
    """Our operation as it runs by default, and on a CPU with each narrower instruction set."""
    if device != "cpu":
        return [Contender("ours", run, accuracy=accuracy)]
    *narrower, widest = instruction_sets()
    others = [Contender(f"ours, {name}", run, accuracy=accuracy, instruction_set=name) for name in reversed(narrower)]
    return [Contender("ours", run, accuracy=accuracy, instruction_set=widest), *others]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shape_name(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))

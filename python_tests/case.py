"""A case: one call of an operation, and what its arguments are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One call of `visgen_fast.ops.<operation>`: `arguments(dtype, device)` are its keyword arguments.

    Integer results (codes, counts) must be the reference's and float64's, so a case's values keep off the borders
    between codes; what happens at a border is for the family's own tests.
    """

    operation: str
    label: str
    arguments: Callable[[torch.dtype, torch.device], Arguments]
    differentiable: tuple[str, ...] = ()
    small: bool = False  # small enough for second and numerical derivatives
    straight_through: bool = False  # its gradient is published as another than its derivative: none to find numerically

    def __str__(self) -> str:
        return f"{self.operation}-{self.label}"


def random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, key: int = 0) -> Tensor:
    """Reproducible numbers, uint8 pixels included."""
    generator = torch.Generator().manual_seed(1000 + key)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=dtype).to(device)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout (`expanded`: the first sample's, for all samples)."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack((x, -x if x.is_floating_point() else x), -1)[..., 0]
    if layout == "transposed":
        return x.transpose(1, -1).contiguous().transpose(1, -1)
    if layout == "expanded":
        return x[:1].expand_as(x)
    if layout == "offset":  # begins 4, 2 or 1 bytes after an aligned address
        return torch.cat((x.flatten()[:1], x.flatten()))[1:].view_as(x)
    return x

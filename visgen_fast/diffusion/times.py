"""At which times a model is trained: densities of t on [0, 1].

A time is a function of its sample's seed alone, whatever the batch or the rank it is drawn in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from visgen_fast import ops


class TimeSampling(Protocol):
    """Any callable from seeds, int64 [B], to times in [0, 1], float32 [B]."""

    def __call__(self, seeds: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class UniformTimes:
    """Every time equally often, in (0, 1]."""

    def __call__(self, seeds: Tensor) -> Tensor:
        """Times, float32 [B], from seeds, int64 [B]."""
        return ops.uniform(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)


@dataclass(frozen=True)
class LogitNormalTimes:
    """logit t ~ N(mean, std²): the middle of the path more often than its ends.

    A positive mean moves the training towards noise. Esser et al., "Scaling rectified flow transformers" (Stable
    Diffusion 3), 2024, section 3.1. ValueError unless std > 0.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, seeds: Tensor) -> Tensor:
        """Times, float32 [B], from seeds, int64 [B]."""
        normal = ops.gaussian(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        return torch.sigmoid(self.mean + self.std * normal)

"""A noise schedule that is trained with the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check as check
from ..nn.state import Float32State
from .bisection import inverse
from .schedules import VariancePreserving


class LearnedVP(VariancePreserving, Float32State):
    """A monotone network as λ(t), between ends that stay where they are or are learned too.

    λ(t) = log_snr_max − (log_snr_max − log_snr_min)·(m(t) − m(0))/(m(1) − m(0)), with m a line and a layer of
    `features` rising sigmoids, all weights positive. It learns from the gradient into the coefficients of
    `ops.add_noise` and the loss, when it is the schedule of a `DiffusionObjective`. With weight `ELBO` only the
    variance of the loss depends on it, but for its ends, which the bound of the likelihood depends on: with
    `learn_ends` the two numbers are where they begin, and the loss must have the bound's other terms,
    `ends_of_bound` (Kingma et al., "Variational diffusion models", 2021, section 4 and appendices H and I). At first λ
    is nearly a line, by default that of the paper's CIFAR-10.

    ValueError unless log_snr_min < log_snr_max, both finite, and features ≥ 1.
    """

    def __init__(
        self,
        log_snr_min: float = -5.0,
        log_snr_max: float = 13.3,
        *,
        features: int = 1024,
        learn_ends: bool = False,
    ) -> None:
        super().__init__()
        if not log_snr_min < log_snr_max:
            raise ValueError(f"log_snr_min must be smaller than log_snr_max, got {log_snr_min} and {log_snr_max}")
        if math.isinf(log_snr_max - log_snr_min):
            raise ValueError(f"log_snr_min and log_snr_max must be finite, got {log_snr_min} and {log_snr_max}")
        check.integer(features, "features", 1)
        self.log_snr_min, self.log_snr_max = log_snr_min, log_snr_max
        self.ends = nn.Parameter(torch.tensor([log_snr_min, log_snr_max])) if learn_ends else None
        self.line = nn.Parameter(torch.tensor(float(log_snr_max - log_snr_min)))
        self.bends = nn.Parameter(torch.randn(features))
        self.offsets = nn.Parameter(torch.zeros(features))
        self.shares = nn.Parameter(torch.randn(features) / features**0.5)

    def log_snr(self, t: Tensor) -> Tensor:
        """λ at times t in [0, 1]."""
        low, high, start, end = self._ends(t)
        return high - (high - low) * (self._rise(t) - start) / (end - start)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse, found by bisection, for λ between the ends."""
        low, high, start, end = self._ends(log_snr)
        return inverse(self._rise, start + (end - start) * (high - log_snr) / (high - low))

    def _ends(self, t: Tensor) -> tuple[Tensor | float, Tensor | float, Tensor, Tensor]:
        """λ(1), λ(0), m(0) and m(1), of t's type."""
        low, high = (self.log_snr_min, self.log_snr_max) if self.ends is None else self.ends.to(t).unbind()
        return low, high, self._rise(t.new_zeros(())), self._rise(t.new_ones(()))

    def _rise(self, t: Tensor) -> Tensor:
        """m(t)."""
        line, bends, offsets, shares = (
            weight.to(t) for weight in (self.line.abs(), self.bends.abs(), self.offsets, self.shares.abs())
        )
        rising = torch.sigmoid((2 * t[..., None] - 1) * bends + offsets)
        return line * t + (rising * shares).sum(-1) * 2 / len(shares)  # no product of matrices: autocast would round it

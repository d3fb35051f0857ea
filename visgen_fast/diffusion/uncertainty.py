"""A weight that is learned: one over the loss that is left at each level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check as check
from ..nn.state import Float32State
from .weights import EDMWeight, Weight, check_weight


class Uncertainty(Weight, Float32State):
    """The loss becomes loss/e^{u(λ)} + u(λ), whose minimum is u = ln of the mean loss: every level counts alike then.

    u is a linear layer over `features` random Fourier features of ln σ/4 = −λ/8, and 0 at first. Karras et al.,
    "Analyzing and improving the training dynamics of diffusion models" (EDM2), 2024, equation 21, there without the
    weights' normalisation. It learns when it is the weight of a `DiffusionObjective`. ValueError unless features ≥ 1,
    and for a weight that has an offset itself.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, weight: Weight | None = None, *, features: int = 128) -> None:
        super().__init__()
        if isinstance(weight, Uncertainty):
            raise ValueError("weight must be one without an uncertainty of its own, got Uncertainty")
        if weight is not None:
            check_weight(weight)
        check.integer(features, "features", 1)
        self.weight = EDMWeight() if weight is None else weight
        self.divides = self.weight.divides
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))
        self.linear = nn.Parameter(torch.zeros(features))

    def __repr__(self) -> str:
        return f"Uncertainty({self.weight!r})"

    def log(self, log_snr: Tensor) -> Tensor:
        """ln of the weight, less u(λ)."""
        return self.weight.log(log_snr) - self.offset(log_snr)

    def offset(self, log_snr: Tensor) -> Tensor:
        """u(λ)."""
        frequencies, phases, linear = (part.to(log_snr) for part in (self.frequencies, self.phases, self.linear))
        waves = torch.cos(-log_snr[..., None] / 8 * frequencies + phases)
        return math.sqrt(2) * (waves * linear).sum(-1)  # no product of matrices: autocast would round it

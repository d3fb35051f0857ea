"""Times that are spread evenly over the samples of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visgen_fast import ops

from .times import TimeSampling, check_times

# The golden ratio's fraction times 2⁶⁴, as a signed integer: products wrap around, which keeps fractions exact.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_BITS = 23  # of a share; all of them, and a half, fit a float32


class LowDiscrepancyTimes(TimeSampling, nn.Module):
    """Times distributed as `times`, as evenly as can be over any consecutive samples of the run.

    Sample n has the share frac(u₀ + n·0.618…) of the distribution, with u₀ from `seed`: the batch size and the number
    of ranks change nothing. What Kingma et al., "Variational diffusion models", 2021, appendix I.1, do within a batch,
    by the additive recurrence of the golden ratio. The loss varies less from step to step, and its mean is the same.
    """

    def __init__(self, times: TimeSampling, *, seed: int = 0) -> None:
        super().__init__()
        check_times(times)
        self.times, self.seed = times, seed
        first = torch.zeros(1, dtype=torch.int64, device="cpu")  # a number, also where tensors are made without data
        self._start = int(ops.derive_seeds(seed, first, purpose=ops.Purpose.TIME))

    def __repr__(self) -> str:
        return f"LowDiscrepancyTimes({self.times!r}, seed={self.seed})"

    def __call__(self, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        """Times, float32 [B], from the samples' places in the run, int64 [B]; ValueError where these are missing."""
        if positions is None or positions.dtype != torch.int64 or positions.shape != seeds.shape:
            got = "none" if positions is None else f"{positions.dtype} of shape {list(positions.shape)}"
            raise ValueError(
                f"positions must be the samples' places in the run, int64 [{len(seeds)}], for LowDiscrepancyTimes; "
                f"got {got}"
            )
        fractions = positions * _GOLDEN + self._start
        leading = fractions >> (64 - _BITS) & (2**_BITS - 1)
        return self.quantile((leading.float() + 0.5) / 2**_BITS)

    def quantile(self, share: Tensor) -> Tensor:
        return self.times.quantile(share)

    def cdf(self, t: Tensor) -> Tensor:
        return self.times.cdf(t)

    def density(self, t: Tensor) -> Tensor:
        return self.times.density(t)

    def correction(self, t: Tensor) -> Tensor | None:
        return self.times.correction(t)

    def observe(self, t: Tensor, losses: Tensor) -> None:
        self.times.observe(t, losses)

    def after_step(self) -> None:
        self.times.after_step()

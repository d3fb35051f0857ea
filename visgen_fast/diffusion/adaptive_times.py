"""Times that go where the loss is."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _check as check
from ..nn.collective import sum_over_ranks
from ..nn.state import Float32State
from .low_discrepancy_times import LowDiscrepancyTimes
from .times import DiscreteTimes, TimeSampling, check_times


class AdaptiveTimes(TimeSampling, Float32State):
    """Times of `times`, drawn more often where the weighted loss is large, and their losses divided by how much more.

    The objective stays the same, and its gradient varies less: p(λ) ∝ w(λ)·E‖ε − ε̂‖², constant in each of `bins` equal
    shares of `times` (Kingma and Gao, "Understanding diffusion objectives as the ELBO", 2023, section 5 and appendix F,
    whose bins have equal widths in λ: with a schedule that is linear in λ, these have too). The mean losses are running
    averages, that `after_step` moves by a share 1 − `decay` of the step's. A share `uniform` is drawn as `times` says.
    The averages are in checkpoints and the same on all ranks.

    ValueError for fewer than two bins, a decay or a share outside (0, 1), and times that are discrete, adaptive, or of
    low discrepancy, which go around these and not into them.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, times: TimeSampling, *, bins: int = 100, decay: float = 0.99, uniform: float = 0.1) -> None:
        super().__init__()
        check_times(times)
        if isinstance(times, (DiscreteTimes, AdaptiveTimes, LowDiscrepancyTimes)):
            raise ValueError(f"times must be continuous, with a density of their own, got {times!r}")
        check.integer(bins, "bins", 2)
        for name, value in {"decay": decay, "uniform": uniform}.items():
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {value}")
        self.times, self.bins, self.decay, self.uniform = times, bins, decay, uniform
        self.register_buffer("losses", torch.zeros(bins))
        self.register_buffer("counts", torch.zeros(bins))
        self._seen: Tensor | None = None  # of this step and this rank: [2, bins], sums and counts

    def __repr__(self) -> str:
        return f"AdaptiveTimes({self.times!r}, bins={self.bins}, decay={self.decay}, uniform={self.uniform})"

    def shares(self) -> Tensor:
        """How often each bin is drawn, [bins], with sum 1."""
        means = self.losses / self.counts.clamp_min(torch.finfo(self.counts.dtype).tiny)
        known = self.counts > 0
        overall = (means * known).sum() / known.sum().clamp_min(1)
        means = torch.where(known, means, overall)
        total = means.sum()
        shares = torch.where(total > 0, means / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / self.bins)
        return (1 - self.uniform) * shares + self.uniform / self.bins

    def quantile(self, share: Tensor) -> Tensor:
        """That of `times`, at the share's place in the bins."""
        shares = self.shares().to(share)
        ends = shares.cumsum(0)
        ends = ends / ends[-1]
        bin = torch.searchsorted(ends, share.contiguous()).clamp_max(self.bins - 1)
        inside = (share - (ends[bin] - shares[bin])) / shares[bin]
        return self.times.quantile(((bin + inside) / self.bins).clamp(0, 1))

    def cdf(self, t: Tensor) -> Tensor:
        """The shares of the bins before, and the part of its own."""
        shares = self.shares().to(t)
        place = self.times.cdf(t) * self.bins
        bin = self._bin(t)
        return (shares.cumsum(0) - shares)[bin] + (place - bin) * shares[bin]

    def density(self, t: Tensor) -> Tensor:
        """That of `times`, times how much more often t's bin is drawn."""
        return self.times.density(t) * self._excess(t)

    def correction(self, t: Tensor) -> Tensor:
        """1 over how much more often t's bin is drawn."""
        return 1 / self._excess(t)

    def observe(self, t: Tensor, losses: Tensor) -> None:
        """Notes a batch's losses [B] at times t [B]; what is no finite number is left out."""
        losses = losses.detach().to(self.losses)
        counted = losses.isfinite().to(losses)
        rows = torch.stack((torch.where(losses.isfinite(), losses, 0).clamp_min(0), counted))
        seen = rows.new_zeros(2, self.bins) if self._seen is None else self._seen
        self._seen = seen.index_add(1, self._bin(t), rows)

    def after_step(self) -> None:
        """Moves the averages by what all ranks noted since the last step; every rank must call it."""
        seen, self._seen = self.losses.new_zeros(2, self.bins) if self._seen is None else self._seen, None
        losses, counts = sum_over_ranks([seen])[0]
        self.losses.mul_(self.decay).add_(losses, alpha=1 - self.decay)
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)

    def _bin(self, t: Tensor) -> Tensor:
        return (self.times.cdf(t) * self.bins).long().clamp(0, self.bins - 1)

    def _excess(self, t: Tensor) -> Tensor:
        return (self.shares() * self.bins).to(t)[self._bin(t)]

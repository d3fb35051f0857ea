"""Times: their densities, spread over a run, and where the loss is."""

from __future__ import annotations

import math

import pytest
import torch
from objectives import SEEDS, TIMES, every_schedule, every_times, learned_times
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    AdaptiveTimes,
    CosineVP,
    CosMapTimes,
    DiffusionObjective,
    LevelTimes,
    LogitNormalTimes,
    LowDiscrepancyTimes,
    ModeTimes,
    Normal,
    RectifiedFlow,
    Schedule,
    Sigmoid,
    UniformTimes,
)


@every_schedule
@every_times
def test_drawn_times_have_the_density_and_the_cdf_that_they_say(schedule: Schedule, times: str) -> None:
    sampling = TIMES[times](schedule)
    positions = torch.arange(len(SEEDS))
    t = sampling(SEEDS, positions)
    assert t.dtype == torch.float32 and (t >= 0).all() and (t <= 1).all()
    assert torch.equal(sampling(SEEDS[17:19], positions[17:19]), t[17:19])
    ordered = t.double().sort().values
    empirical = torch.arange(1, len(t) + 1, dtype=torch.float64) / len(t)
    assert (sampling.cdf(ordered) - empirical).abs().max() < 1.63 / math.sqrt(len(t))  # Kolmogorov–Smirnov at 1%
    edges = sampling.quantile(torch.linspace(0.05, 0.95, 10, dtype=torch.float64))
    grid = edges[:-1, None] + edges.diff()[:, None] * (torch.arange(400) + 0.5) / 400
    torch.testing.assert_close(
        sampling.density(grid).mean(1) * edges.diff(), torch.full((9,), 0.1).double(), rtol=0.02, atol=0
    )
    shares = torch.tensor([[0.0, 0.2], [0.7, 1.0]], dtype=torch.float64)
    ends = sampling.quantile(shares)
    assert ends.shape == (2, 2) and ends.isfinite().all() and sampling.density(ends).isfinite().all()
    if times != "discrete":
        torch.testing.assert_close(sampling.cdf(ends), shares, rtol=0, atol=1e-6)


def test_logit_normal_times_are_normal_levels_of_rectified_flow() -> None:
    share = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    levels, logits = LevelTimes(RectifiedFlow(), Normal(-0.6, 1.4)), LogitNormalTimes(0.3, 0.7)
    torch.testing.assert_close(levels.quantile(share), logits.quantile(share), rtol=1e-9, atol=0)
    t = logits.quantile(share)
    torch.testing.assert_close(levels.density(t), logits.density(t), rtol=1e-9, atol=0)


def test_mode_times_are_stable_diffusion_3s() -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    for scale in (1.29, -0.5):
        published = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        torch.testing.assert_close(ModeTimes(scale).quantile(1 - u), published)
    published = 1 - 1 / (torch.tan(math.pi / 2 * u[:-1]) + 1)
    torch.testing.assert_close(CosMapTimes().quantile(u[:-1]), published)


def test_low_discrepancy_spreads_any_consecutive_samples_evenly_whatever_the_batch() -> None:
    times, positions = LowDiscrepancyTimes(UniformTimes(), seed=3), torch.arange(10_000)
    t = times(SEEDS.repeat(3)[:10_000], positions)
    for start, count in ((0, 64), (777, 1000), (5000, 4096)):
        ordered = t[start : start + count].sort().values
        even = (torch.arange(count) + 0.5) / count
        assert (ordered - even).abs().max() < 2.5 / count  # random ones: about 1/√count
    ranks = [times(SEEDS[:50], positions[rank:100:2]) for rank in (0, 1)]
    assert torch.equal(torch.stack(ranks, 1).flatten(), t[:100])
    assert not torch.equal(LowDiscrepancyTimes(UniformTimes(), seed=4)(SEEDS, positions[:4096]), t[:4096])
    far = times(SEEDS[:64], 2**40 + torch.arange(64)).sort().values
    assert (far - (torch.arange(64) + 0.5) / 64).abs().max() < 2.5 / 64
    with pytest.raises(ValueError, match="positions must be the samples' places in the run.*got none"):
        times(SEEDS)


def test_adaptive_times_go_where_the_loss_is_and_leave_the_objective() -> None:
    torch.manual_seed(0)
    times = AdaptiveTimes(UniformTimes(), bins=20, decay=0.9)
    objective = DiffusionObjective(CosineVP(), "v", times, weight=Sigmoid())
    plain = DiffusionObjective(CosineVP(), "v", UniformTimes(), weight=Sigmoid())
    x = 0.3 * ops.gaussian(SEEDS, (1, 2, 2), stream=ops.Purpose.LABEL.stream())

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return 0.9 * x_t

    before, expected = (o(model, x, torch.zeros(len(x)), SEEDS) for o in (objective, plain))
    torch.testing.assert_close(before, expected)  # nothing is known yet
    for _ in range(30):
        objective(model, x, torch.zeros(len(x)), SEEDS)
        objective.after_step()
    after = objective(model, x, torch.zeros(len(x)), SEEDS)
    error = math.hypot(after.std().item(), expected.std().item()) / math.sqrt(len(x))
    assert after.mean().item() == pytest.approx(expected.mean().item(), abs=4 * error)
    assert after.std() < 0.8 * expected.std()
    shares = times.shares()
    assert (
        shares.sum().item() == pytest.approx(1) and shares.min() >= 0.1 / 20 - 1e-6 and shares.max() > 3 * shares.min()
    )
    grid = torch.linspace(-8, 8, 40).double()
    torch.testing.assert_close(objective.implied_weight(grid), plain.implied_weight(grid), rtol=1e-5, atol=0)
    objective.after_step()
    objective.eval()
    counts = times.counts.clone()
    objective(model, x, torch.zeros(len(x)), SEEDS)
    objective.after_step()
    torch.testing.assert_close(times.counts, 0.9 * counts)  # nothing was noted


def test_adaptive_times_are_in_the_state_and_take_no_bad_losses() -> None:
    times = learned_times(CosineVP())
    other = AdaptiveTimes(LogitNormalTimes(), bins=7)
    DiffusionObjective(CosineVP(), "v", other).load_state_dict(
        DiffusionObjective(CosineVP(), "v", times).state_dict(), strict=True
    )
    assert torch.equal(times.shares(), other.shares()) and not torch.equal(
        other.shares(), other.shares().mean().expand(7)
    )
    other.observe(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([math.nan, math.inf, -3.0]))
    other.after_step()
    assert other.shares().isfinite().all()

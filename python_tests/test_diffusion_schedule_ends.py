"""Schedules at and beyond their ends, and with numbers at the edge of what float32 holds."""

from __future__ import annotations

import math

import pytest
import torch
from objectives import TIMES

from visgen_fast.diffusion import (
    ELBO,
    Cauchy,
    CosineVP,
    DiffusionObjective,
    DiscreteVP,
    FromDensity,
    HyperbolicSecant,
    Interpolated,
    KarrasVE,
    Laplace,
    LevelTimes,
    LogitNormalTimes,
    Normal,
    RectifiedFlow,
    Schedule,
    Shifted,
    SigmoidVP,
    Table,
    TimeSampling,
    UniformTimes,
)

SCHEDULES: list[Schedule] = [
    *(CosineVP(-math.inf, math.inf), CosineVP(-2000, 2000), CosineVP(-80, -79), CosineVP(79, 80)),
    *(SigmoidVP(-30, 30), SigmoidVP(), KarrasVE(1e-5, 1e4), KarrasVE(rho=0.2), KarrasVE(rho=1000)),
    *(DiscreteVP([0.5, 0]), DiscreteVP([1 - 1e-15, 1e-300]), Table([0.2, 0.3], [1000, -1000])),
    *(FromDensity(Normal(0, 0.1)), FromDensity(Laplace(0, 0.05)), FromDensity(Normal(3, 0.3), -9, 9)),
    *(FromDensity(Laplace(), -math.inf, math.inf), FromDensity(Laplace(0, 10), -5000, 1e308)),
    *(Shifted(CosineVP(-math.inf, math.inf), 1, 64), Interpolated(RectifiedFlow(), 1, 1e5, 3)),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_schedule
@every_type
def test_nothing_is_nan_at_any_time_or_level(schedule: Schedule, dtype: torch.dtype) -> None:
    t = torch.tensor([0, 1e-45, 1e-38, 1e-8, 0.25, 0.3, 0.5, 1 - 1e-7, 1], dtype=dtype, requires_grad=True)
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.slope):
        assert function(t).isfinite().all()
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr):
        value = function(t)
        if value.requires_grad:
            assert torch.autograd.grad(value.sum(), t)[0].isfinite().all()
    assert (schedule.log_snr(t).diff() <= 0).all()
    log_snr = torch.tensor([-math.inf, -1e4, -175, -79.5, -20, 0, 20, 79.5, 175, 1e4, math.inf], dtype=dtype)
    assert not schedule.time(log_snr).isnan().any()
    assert not torch.stack(schedule.levels(log_snr)).isnan().any()


@every_schedule
def test_no_level_beyond_the_ends_is_drawn_or_weighed(schedule: Schedule) -> None:
    objective = DiffusionObjective(schedule, "v", UniformTimes())
    low, high = objective.ends()
    beyond = torch.tensor([low - 30, low - 1e-3, high + 1e-3, high + 30], dtype=torch.float64)
    assert (objective.level_density(beyond) == 0).all() and (objective.implied_weight(beyond) == 0).all()


@every_schedule
def test_times_of_levels_are_inverted_where_a_time_can_tell_them_apart(schedule: Schedule) -> None:
    high, low = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    if low < 20 and high > -20:
        low, high = max(low, -20.0), min(high, 20.0)
    wanted = torch.linspace(low, high, 201, dtype=torch.float64)
    t = schedule.time(wanted)
    # A time below 1 is known to 2⁻⁵³, and all of float64's range is left at 0.
    told = (t > 1e-290) & (t < 1 - 2.0**-30)
    assert told.sum() > (5 if isinstance(schedule, FromDensity) else 190)
    torch.testing.assert_close(schedule.log_snr(t)[told], wanted[told], rtol=1e-6, atol=1e-6)


@every_type
@pytest.mark.parametrize(
    "density", [Normal(), Normal(0, 0.1), Laplace(1, 0.05), Cauchy(0, 1e-3), HyperbolicSecant(-2, 0.02)], ids=repr
)
@pytest.mark.parametrize(("low", "high"), [(-15.0, 15.0), (-9.0, 11.0), (-150.0, 120.0)])
def test_a_schedule_from_a_density_ends_where_it_says_however_narrow(density, low, high, dtype) -> None:
    schedule = FromDensity(density, low, high)
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    torch.testing.assert_close(schedule.log_snr(ends), torch.tensor([high, low], dtype=dtype), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(schedule.time(torch.tensor([high, low], dtype=dtype)), ends, rtol=0, atol=1e-7)
    t = torch.tensor([0, 1e-30, 1e-12, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6, 1], dtype=dtype)
    assert (schedule.log_snr(t).diff() <= 0).all()


@pytest.mark.parametrize(
    "times",
    [
        LevelTimes(CosineVP(), Normal()),
        LevelTimes(CosineVP(), Normal(0, 0.1)),
        LogitNormalTimes(),
        LogitNormalTimes(0, 4),
    ],
    ids=repr,
)
def test_the_last_of_all_times_is_weighed_like_those_before_it(times: TimeSampling) -> None:
    """One draw in 2²⁴ is the share 1, whose level must not be one that is never drawn: weights divide by p(λ)."""
    objective = DiffusionObjective(CosineVP(), "epsilon", times, weight=ELBO())
    shares = torch.tensor([1 - 2**-20, 1 - 2**-24, 1.0])
    weights = objective.sample_weights(times.quantile(shares))
    assert (weights[1:] <= weights[0] * 2**5).all() and weights.max() < 1e9


@pytest.mark.parametrize("times", TIMES)
@every_type
def test_every_share_has_a_time_between_0_and_1(times: str, dtype: torch.dtype) -> None:
    edge = torch.arange(1, 2000, dtype=torch.float64) * torch.finfo(dtype).eps / 2
    shares = torch.cat((torch.tensor([0.0, 1.0]), edge, 1 - edge, torch.linspace(0, 1, 4001))).to(dtype)
    t = TIMES[times](CosineVP()).quantile(shares)
    assert ((t >= 0) & (t <= 1)).all()


def test_a_schedule_of_extreme_numbers_is_refused_in_a_sentence() -> None:
    for rho in (1e-3, 0.05, 1e4):
        with pytest.raises(ValueError, match=r"rho must lie in \[0.132, 1000\] between these sigmas, got"):
            KarrasVE(rho=rho)
    with pytest.raises(ValueError, match=r"rho must lie in \[1.01, 1000\] between these sigmas, got 0.5"):
        KarrasVE(math.exp(80), math.exp(81), rho=0.5)

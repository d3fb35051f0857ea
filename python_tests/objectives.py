"""Every schedule, weight and kind of times, for tests of their combinations."""

from __future__ import annotations

import pytest
import torch

from visgen_fast import ops
from visgen_fast.diffusion import (
    ELBO,
    P2,
    PREDICTIONS,
    AdaptiveTimes,
    Cauchy,
    CosineVP,
    CosMapTimes,
    DiffusionObjective,
    DiscreteTimes,
    DiscreteVP,
    EDMMonotonic,
    EDMWeight,
    FromDensity,
    Interpolated,
    KarrasVE,
    Laplace,
    LearnedVP,
    LevelTimes,
    LogitNormalTimes,
    LowDiscrepancyTimes,
    MinSNR,
    ModeTimes,
    Normal,
    RectifiedFlow,
    Schedule,
    Shifted,
    Sigmoid,
    SigmoidVP,
    SoftMinSNR,
    Table,
    TimeSampling,
    TruncatedSNR,
    Uncertainty,
    UniformTimes,
    Weight,
)

torch.manual_seed(0)
SCHEDULES: list[Schedule] = [
    *(RectifiedFlow(), CosineVP(), SigmoidVP(), KarrasVE(), DiscreteVP.linear(), DiscreteVP.cosine()),
    *(DiscreteVP.linear().with_zero_terminal_snr(), Table([0, 0.45, 1], [9, 0.3, -14]), LearnedVP(features=16)),
    *(FromDensity(Laplace()), FromDensity(Cauchy()), Shifted(RectifiedFlow(), 1, 3)),
    *(Shifted(CosineVP(), 16, 64, ends="keep"), Interpolated(CosineVP(), 32, 256, 512)),
]
WEIGHTS: list[Weight | None] = [
    *(None, MinSNR(), SoftMinSNR(), P2(), TruncatedSNR(), EDMWeight(), Sigmoid(), EDMMonotonic(), ELBO()),
    *(Uncertainty(), Uncertainty(ELBO())),
]


def learned_times(schedule: Schedule) -> AdaptiveTimes:
    times = AdaptiveTimes(LogitNormalTimes(), bins=7)
    t = times.quantile(torch.linspace(0.001, 0.999, 500))
    times.observe(t, (1 - t) ** 2 + 0.1)
    times.after_step()
    return times


TIMES = {
    "uniform": lambda schedule: UniformTimes(),
    "logit-normal": lambda schedule: LogitNormalTimes(0.3, 0.8),
    "mode": lambda schedule: ModeTimes(),
    "ends": lambda schedule: ModeTimes(-0.6),
    "cosmap": lambda schedule: CosMapTimes(),
    "discrete": lambda schedule: DiscreteTimes(4000),
    "levels": lambda schedule: LevelTimes(schedule, Normal(0.5, 2.4)),
    "low discrepancy": lambda schedule: LowDiscrepancyTimes(CosMapTimes()),
    "adaptive": learned_times,
}

SEEDS = ops.derive_seeds(5, torch.arange(4096))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_times = pytest.mark.parametrize("times", TIMES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def objectives(schedule: Schedule, times: TimeSampling):
    """The objective of every prediction with every weight; those that are refused are ε without a signal."""
    for prediction in PREDICTIONS:
        if prediction == "epsilon" and schedule.zero_terminal_snr:
            continue
        for weight in WEIGHTS:
            yield DiffusionObjective(schedule, prediction, times, weight=weight)

"""What the parts of an objective are made of: one that does not fit is answered where it is given."""

from __future__ import annotations

import math

import pytest

from visgen_fast.diffusion import (
    AdaptiveTimes,
    CosineVP,
    DiffusionObjective,
    DiscreteTimes,
    EDMMonotonic,
    FromDensity,
    Interpolated,
    Laplace,
    LearnedVP,
    LevelTimes,
    LowDiscrepancyTimes,
    Normal,
    Shifted,
    Uncertainty,
    UniformTimes,
    edm,
)


def objective(schedule=None, times=None, **options):
    return DiffusionObjective(schedule or CosineVP(), "v", times or UniformTimes(), **options)


A_SCHEDULE = "schedule must be a Schedule, for example CosineVP(), got "
A_DENSITY = "must be a Density, for example Normal(), got "
SOME_TIMES = "times must be a TimeSampling, for example UniformTimes(), got "
WRONG = [
    (lambda: objective("cosine"), A_SCHEDULE + "'cosine'"),
    (lambda: objective(CosineVP), A_SCHEDULE + "<class"),
    (lambda: LevelTimes("cosine", Normal()), A_SCHEDULE + "'cosine'"),
    (lambda: Shifted("cosine", 1, 2), A_SCHEDULE + "'cosine'"),
    (lambda: Interpolated("cosine", 1, 2, 3), A_SCHEDULE + "'cosine'"),
    (lambda: FromDensity("laplace"), f"density {A_DENSITY}'laplace'"),
    (lambda: FromDensity(Laplace), f"density {A_DENSITY}<class"),
    (lambda: LevelTimes(CosineVP(), "normal"), f"density_of_levels {A_DENSITY}'normal'"),
    (lambda: objective(times="uniform"), SOME_TIMES + "'uniform'"),
    (lambda: objective(times=UniformTimes), SOME_TIMES + "<class"),
    (lambda: AdaptiveTimes("uniform"), SOME_TIMES + "'uniform'"),
    (lambda: LowDiscrepancyTimes("uniform"), SOME_TIMES + "'uniform'"),
    (lambda: objective(weight="min-snr"), "weight must be a Weight, for example MinSNR(), got 'min-snr'"),
    (lambda: objective(weight=Normal()), "weight must be a Weight, for example MinSNR(), got Normal("),
    (lambda: Uncertainty("edm"), "weight must be a Weight, for example MinSNR(), got 'edm'"),
    (lambda: objective(penalty="huber"), "penalty must be one of l2, l1, pseudo_huber, got 'huber'"),
    (lambda: objective(penalty_scale=math.nan), "penalty_scale must be positive, got nan"),
    (lambda: objective(scales=()), "scales must hold 1 to 16 scales, got 0"),
    (lambda: objective(scales=(1, 1)), "scales must be different, got [1, 1]"),
    (lambda: objective(scales=4), "scales must be a sequence of integers, got int"),
    (lambda: objective(scale_weights="papre"), "scale_weights must be one of mean, paper, got 'papre'"),
    (lambda: objective(scale_weights=[1, 2]), "scale_weights must have a number for each of the 1 scales, got 2"),
    (lambda: DiscreteTimes(2.5), "steps must be an integer, got float"),
    (lambda: AdaptiveTimes(UniformTimes(), bins=2.5), "bins must be an integer, got float"),
    (lambda: LearnedVP(features=2.5), "features must be an integer, got float"),
    (lambda: Uncertainty(features=2.5), "features must be an integer, got float"),
    (lambda: LearnedVP(-math.inf, 3), "log_snr_min and log_snr_max must be finite, got -inf and 3"),
    (lambda: LearnedVP(-3, math.inf), "log_snr_min and log_snr_max must be finite, got -3 and inf"),
    (lambda: EDMMonotonic(mean=math.nan), "mean must be finite, got nan"),
    (lambda: edm(math.inf), "data_std must be positive and finite, got inf"),
]


@pytest.mark.parametrize(("make", "said"), WRONG)
def test_a_part_that_does_not_fit_is_named_where_it_is_given(make, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(said)

"""What each level counts: against published weights, and against histograms of drawn times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from objectives import SEEDS, TIMES, every_prediction, every_schedule, every_times, learned_times, objectives
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    ELBO,
    P2,
    CosineVP,
    DiffusionObjective,
    DiscreteTimes,
    DiscreteVP,
    EDMMonotonic,
    EDMWeight,
    KarrasVE,
    LevelTimes,
    LogitNormalTimes,
    MinSNR,
    Normal,
    RectifiedFlow,
    Schedule,
    Sigmoid,
    SoftMinSNR,
    TruncatedSNR,
    Uncertainty,
    UniformTimes,
    Weight,
    convert,
)


def of_epsilon(objective: DiffusionObjective, t: Tensor) -> Tensor:
    """The squared error of the network's output for an error of 1 in ε, found by converting both."""
    alpha, sigma = objective.schedule.alpha(t), objective.schedule.sigma(t)
    noise, x_t = torch.zeros_like(t)[:, None], torch.zeros_like(t)[:, None]
    right, wrong = (convert(e, x_t, alpha, sigma, "epsilon", objective.prediction) for e in (noise, noise + 1))
    return (wrong - right).square().squeeze(1)


@every_schedule
@every_times
def test_the_implied_weight_is_a_histogram_of_drawn_times_by_their_weights(schedule: Schedule, times: str) -> None:
    count, bins, parts = 4000, 6, 40
    sampling = TIMES[times](schedule)
    drawn = sampling.quantile((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    log_snr = schedule.log_snr(drawn)
    # Between the levels of 3% and 97%: outside, a few draws stand for densities that differ by orders of magnitude.
    low, high = log_snr.quantile(0.03).item(), log_snr.quantile(0.97).item()
    low, high = max(low, -16.0), min(high, 16.0)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    place = torch.bucketize(log_snr, edges) - 1
    inside = (place >= 0) & (place < bins)
    grid = low + (high - low) * (torch.arange(bins * parts, dtype=torch.float64) + 0.5) / (bins * parts)
    for objective in objectives(schedule, sampling):
        counted = objective.sample_weights(drawn).detach() * of_epsilon(objective, drawn) / count
        histogram = torch.zeros(bins, dtype=torch.float64).index_add_(0, place[inside], counted[inside])
        integral = objective.implied_weight(grid).view(bins, parts).mean(1) * (high - low) / bins
        torch.testing.assert_close(histogram, integral, rtol=0.03, atol=1e-3 * integral.max().item())


# The published weights, by the prediction whose squared error they multiply.


def published(weight: Weight, kind: str, snr: np.ndarray) -> np.ndarray:
    sigma = snr**-0.5
    return {
        MinSNR: {
            "x": np.minimum(snr, 5),
            "epsilon": np.minimum(snr, 5) / snr,
            "v": np.minimum(snr, 5) / (snr + 1),
        },
        SoftMinSNR: {"x": 1 / (sigma**2 + 0.25), "edm": (sigma * 0.5 / (sigma**2 + 0.25)) ** 2},
        P2: {"epsilon": 1 / (1 + snr)},
        TruncatedSNR: {"x": np.maximum(snr, 1)},
        EDMWeight: {"x": (sigma**2 + 0.25) / (sigma * 0.5) ** 2, "edm": np.ones_like(snr)},
    }[type(weight)].get(kind)


@every_prediction
@pytest.mark.parametrize("weight", [MinSNR(), SoftMinSNR(), P2(), TruncatedSNR(), EDMWeight()], ids=repr)
def test_weights_are_the_published_ones_in_each_space(prediction: str, weight: Weight) -> None:
    schedule = CosineVP()
    t = torch.linspace(0.001, 0.999, 201, dtype=torch.float64)
    found = DiffusionObjective(schedule, prediction, UniformTimes(), weight=weight).sample_weights(t).numpy()
    expected = published(weight, prediction, schedule.log_snr(t).exp().numpy())
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_divided_weights_are_vdms_and_edms() -> None:
    """½·E[w(λ)·(−dλ/dt)·‖ε − ε̂‖²] under uniform times; EDM's peak is held."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    log_snr = CosineVP().log_snr(t).numpy()
    a, span = math.atan(math.exp(-7.5)), math.atan(math.exp(7.5)) - math.atan(math.exp(-7.5))
    fall = 4 * span / np.sin(2 * (a + t.numpy() * span))
    for weight, w in ((ELBO(), 1.0), (Sigmoid(-1.0), 1 / (1 + np.exp(log_snr + 1)))):
        objective = DiffusionObjective(CosineVP(), "epsilon", UniformTimes(), weight=weight)
        np.testing.assert_allclose(objective.sample_weights(t).numpy(), fall * w, rtol=1e-9)
    grid = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    of_edm = np.exp(-((grid.numpy() - 2.4) ** 2) / (2 * 2.4**2)) * (np.exp(-grid.numpy()) + 0.25)
    held = np.where(grid.numpy() < grid.numpy()[of_edm.argmax()], of_edm.max(), of_edm) / of_edm.max()
    np.testing.assert_allclose(EDMMonotonic().log(grid).exp().numpy(), held, rtol=1e-5)


MONOTONE = {
    "v, cosine": (CosineVP(), "v", UniformTimes(), None, True),
    "velocity, uniform": (RectifiedFlow(), "velocity", UniformTimes(), None, True),
    "ELBO": (CosineVP(), "epsilon", LogitNormalTimes(), ELBO(), True),
    "sigmoid": (RectifiedFlow(), "x", UniformTimes(), Sigmoid(), True),
    "EDM-monotonic": (KarrasVE(), "edm", LevelTimes(KarrasVE(), Normal(2.4, 2.4)), EDMMonotonic(), True),
    "ELBO, adaptive": (CosineVP(), "v", learned_times(CosineVP()), ELBO(), True),
    "ELBO, discrete": (DiscreteVP.linear(), "epsilon", DiscreteTimes(), ELBO(), True),
    "epsilon, cosine": (CosineVP(), "epsilon", UniformTimes(), None, False),
    "velocity, logit-normal": (RectifiedFlow(), "velocity", LogitNormalTimes(), None, False),
    "EDM": (KarrasVE(), "edm", LevelTimes(KarrasVE(), Normal(2.4, 2.4)), None, False),
    "Min-SNR, cosine": (CosineVP(), "v", UniformTimes(), MinSNR(), False),
}


@pytest.mark.parametrize("name", MONOTONE)
def test_which_objectives_are_maximum_likelihood(name: str) -> None:
    schedule, prediction, times, weight, expected = MONOTONE[name]
    assert DiffusionObjective(schedule, prediction, times, weight=weight).is_monotone() is expected


def test_known_implied_weights_are_found() -> None:
    log_snr = torch.linspace(-9, 9, 91, dtype=torch.float64)
    half = torch.exp(-log_snr / 2)
    normal = torch.exp(-((log_snr + 1.6) ** 2) / (2 * 1.6**2))
    known = {
        "epsilon, cosine": (DiffusionObjective(CosineVP(), "epsilon", UniformTimes()), 1 / torch.cosh(log_snr / 2)),
        "v, cosine": (DiffusionObjective(CosineVP(), "v", UniformTimes()), half),
        "velocity, uniform": (DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes()), half),
        "JiT": (
            DiffusionObjective(RectifiedFlow(), "x", LogitNormalTimes(0.8, 0.8), loss="velocity"),
            normal * (1 + half) ** 2,
        ),
        "EDM": (
            DiffusionObjective(KarrasVE(), "edm", LevelTimes(KarrasVE(), Normal(2.4, 2.4))),
            torch.exp(-((log_snr - 2.4) ** 2) / (2 * 2.4**2)) * (torch.exp(-log_snr) + 0.25),
        ),
    }
    for objective, expected in known.values():
        inside = (log_snr > -8.7) if isinstance(objective.schedule, KarrasVE) else slice(None)
        found = objective.implied_weight(log_snr)[inside]
        torch.testing.assert_close(found / found[30], expected[inside] / expected[inside][30], rtol=1e-6, atol=0)


def test_an_uncertainty_learns_the_loss_of_each_level() -> None:
    torch.manual_seed(0)
    weight = Uncertainty(EDMWeight())
    objective = DiffusionObjective(CosineVP(), "v", LevelTimes(CosineVP(), Normal(0, 3)), weight=weight)
    assert {name for name, _ in objective.named_parameters()} == {"weight.linear"}
    x = 0.5 * ops.gaussian(SEEDS, (1, 4, 4), stream=ops.Purpose.LABEL.stream())

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros_like(x_t)

    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = objective(model, x, torch.zeros(len(x)), SEEDS).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    log_snr = torch.linspace(-5, 5, 11)
    plain = DiffusionObjective(CosineVP(), "v", UniformTimes(), weight=EDMWeight())
    t = CosineVP().time(log_snr)
    # v's error is v itself: E v² = α² + σ²/4.
    left = plain.sample_weights(t) * (CosineVP().alpha(t) ** 2 + 0.25 * CosineVP().sigma(t) ** 2)
    torch.testing.assert_close(weight.offset(log_snr), left.log(), rtol=0, atol=0.4)

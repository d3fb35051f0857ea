"""Times, label dropping, guidance and the objective."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    CosineVP,
    DiffusionObjective,
    LogitNormalTimes,
    Prediction,
    RectifiedFlow,
    Schedule,
    TimeSampling,
    UniformTimes,
    drop_labels,
)

SEEDS = ops.derive_seeds(11, torch.arange(4096))
every_density = pytest.mark.parametrize("density", [UniformTimes(), LogitNormalTimes(), LogitNormalTimes(0.7, 0.4)])


def kolmogorov_distance(values: Tensor, cumulative: Tensor) -> float:
    empirical = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    return (cumulative.double() - empirical).abs().max().item()


@every_density
def test_times_lie_in_the_unit_interval_and_depend_on_the_own_seed_alone(density: TimeSampling) -> None:
    t = density(SEEDS)
    assert t.dtype == torch.float32 and t.shape == SEEDS.shape and (t >= 0).all() and (t <= 1).all()
    assert torch.equal(density(SEEDS[17:18]), t[17:18])
    assert torch.equal(density(SEEDS.flip(0)), t.flip(0))


def test_uniform_times_are_uniform() -> None:
    t = UniformTimes()(SEEDS).sort().values
    assert kolmogorov_distance(t, t) < 1.63 / math.sqrt(len(t))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5)])
def test_the_logit_of_logit_normal_times_is_normal(mean: float, std: float) -> None:
    logits = torch.logit(LogitNormalTimes(mean, std)(SEEDS).double()).sort().values
    assert kolmogorov_distance(logits, torch.special.ndtr((logits - mean) / std)) < 1.63 / math.sqrt(len(logits))


def test_times_labels_and_noise_do_not_share_random_numbers() -> None:
    t = UniformTimes()(SEEDS)
    dropped = drop_labels(torch.zeros_like(SEEDS), SEEDS, 0.5, 1).float()
    noise = ops.gaussian(SEEDS, (1,))[:, 0]
    correlations = torch.corrcoef(torch.stack((t, dropped, noise)))
    assert (correlations - torch.eye(3)).abs().max() < 4 / math.sqrt(len(SEEDS))


def test_a_width_of_zero_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="std must be positive, got 0"):
        LogitNormalTimes(std=0)


def test_a_mean_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mean and std must be finite, got nan and 1"):
        LogitNormalTimes(mean=math.nan)


@given(probability=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_labels_are_dropped_as_often_as_asked_and_otherwise_kept(probability: float) -> None:
    labels = torch.arange(len(SEEDS)) % 10
    dropped = drop_labels(labels, SEEDS, probability, 10)
    rate = (dropped == 10).double().mean().item()
    assert rate == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / len(SEEDS)))
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])
    assert torch.equal(drop_labels(labels[5:9], SEEDS[5:9], probability, 10), dropped[5:9])


def test_a_probability_outside_the_unit_interval_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\], got 1.5"):
        drop_labels(torch.zeros(2, dtype=torch.int64), SEEDS[:2], 1.5, 10)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP()], ids=repr)
@pytest.mark.parametrize("prediction", list(PREDICTIONS.values()))
def test_a_network_that_knows_the_answer_has_no_loss(schedule: Schedule, prediction: Prediction) -> None:
    seeds, x = SEEDS[:6], torch.linspace(-1, 1, 6 * 12).view(6, 3, 2, 2)
    noise = ops.gaussian(seeds, x.shape[1:])

    def oracle(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None, None] for level in (schedule.alpha(t), schedule.sigma(t)))
        torch.testing.assert_close(x_t, prediction.scale_input(alpha * x + sigma * noise, alpha, sigma))
        c, d = prediction.weights(alpha, sigma)
        return c * x + d * noise

    if (schedule, prediction.name) == (RectifiedFlow(), "epsilon"):  # which knows no answer at t = 1
        with pytest.raises(ValueError, match="'epsilon' says nothing of the image at t = 1, where RectifiedFlow"):
            DiffusionObjective(schedule, prediction, UniformTimes())
        return
    losses = DiffusionObjective(schedule, prediction, UniformTimes())(oracle, x, torch.zeros_like(seeds), seeds)
    assert losses.shape == (6,) and losses.dtype == torch.float32 and (losses < 1e-12).all()


def test_the_loss_is_the_mean_squared_error_of_each_sample() -> None:
    seeds, x = SEEDS[:2], torch.zeros(2, 1, 2, 2)
    objective = DiffusionObjective(RectifiedFlow(), "x", UniformTimes())
    offsets = torch.tensor([2.0, -3.0])[:, None, None, None]
    losses = objective(lambda x_t, t, labels: x + offsets, x, torch.zeros_like(seeds), seeds)
    torch.testing.assert_close(losses, torch.tensor([4.0, 9.0]))


def test_the_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    x, labels, seeds = torch.linspace(-1, 1, 32).view(8, 1, 2, 2), torch.arange(8), SEEDS[:8]
    objective = DiffusionObjective(CosineVP(), "v", LogitNormalTimes(), label_drop=0.5, null_label=10)

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t * (1 + t + labels)[:, None, None, None]

    whole = objective(model, x, labels, seeds)
    assert torch.equal(
        torch.cat([objective(model, x[i : i + 2], labels[i : i + 2], seeds[i : i + 2]) for i in (0, 2, 4, 6)]), whole
    )


def test_the_network_is_given_dropped_labels() -> None:
    objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes(), label_drop=0.3, null_label=10)
    labels, seen = torch.arange(len(SEEDS)) % 10, []

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return x_t

    objective(model, torch.zeros(len(SEEDS), 1), labels, SEEDS)
    assert torch.equal(seen[0], drop_labels(labels, SEEDS, 0.3, 10)) and (seen[0] == 10).any()


def test_pixels_are_trained_on_as_their_values_in_minus_one_to_one() -> None:
    pixels = torch.arange(0, 256, 16, dtype=torch.uint8).view(2, 1, 2, 4)
    objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes())

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t

    labels, seeds = torch.zeros(2, dtype=torch.int64), SEEDS[:2]
    torch.testing.assert_close(
        objective(model, pixels, labels, seeds), objective(model, pixels / 127.5 - 1, labels, seeds)
    )


@pytest.mark.parametrize("prediction", list(PREDICTIONS.values()))
def test_the_objective_compiles_without_graph_breaks_to_the_same_loss(prediction: Prediction) -> None:
    objective = DiffusionObjective(CosineVP(), prediction, LogitNormalTimes(), label_drop=0.5, null_label=10)

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t * (1 + labels[:, None]) + t[:, None]

    compiled = torch.compile(partial(objective, network), fullgraph=True, backend="aot_eager")
    x, labels, seeds = torch.linspace(-1, 1, 32).view(8, 4), torch.arange(8), SEEDS[:8]
    torch.testing.assert_close(compiled(x, labels, seeds), objective(network, x, labels, seeds))


def test_an_objective_that_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"label_drop must lie in \[0, 1\], got -0.1"):
        DiffusionObjective(RectifiedFlow(), "x", UniformTimes(), label_drop=-0.1)
    with pytest.raises(ValueError, match=r"null_label must be given where label_drop is above 0, got label_drop 0\.1"):
        DiffusionObjective(RectifiedFlow(), "x", UniformTimes(), label_drop=0.1)
    with pytest.raises(ValueError, match="prediction must be one of"):
        DiffusionObjective(RectifiedFlow(), "noise", UniformTimes())

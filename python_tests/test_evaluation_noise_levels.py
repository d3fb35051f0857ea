"""Errors by noise level: those of exact denoisers are the analytic ones, and measuring changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from levels import Restless, exact_denoiser, gaussian_pictures, seeds
from objectives import SCHEDULES
from torch import Tensor

from visgen_fast.diffusion import (
    PREDICTIONS,
    AdaptiveTimes,
    CosineVP,
    DiffusionObjective,
    Laplace,
    MinSNR,
    Normal,
    RectifiedFlow,
    UniformTimes,
)
from visgen_fast.evaluation import LossByLevel, importance_weighted_loss, loss_by_level
from visgen_fast.nn.conditions import Condition

STD = 0.6
LEVELS = [-4.0, -1.0, 0.5, 3.0]


def labels(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_errors_of_the_exact_denoiser_of_gaussian_data_are_the_analytic_ones(schedule, prediction):
    if prediction == "epsilon" and schedule.zero_terminal_snr:
        return  # which is refused
    objective = DiffusionObjective(schedule, prediction, UniformTimes())
    pictures = gaussian_pictures(300, STD)
    found = loss_by_level(
        exact_denoiser(objective, STD), objective, pictures, labels(300), LEVELS, seeds=seeds(300), scales=(1, 2, 8)
    )
    assert found.epsilon.shape == found.x.shape == (4, 3) and found.log_snr.tolist() == LEVELS
    snr = found.log_snr.exp()[:, None]
    # An average of s×s pixels has 1/s² of the error's variance.
    of_x = STD**2 / (snr * STD**2 + 1) / torch.tensor([1.0, 4.0, 64.0])
    values = 300 * 64 / torch.tensor([1.0, 4.0, 64.0])
    spread = 4 * (2 / values).sqrt()
    assert ((found.x / of_x - 1).abs() < spread).all() and ((found.epsilon / (snr * of_x) - 1).abs() < spread).all()


def test_weight_times_and_penalty_change_no_measure_and_chunks_add_up():
    pictures, plain = gaussian_pictures(230, STD), DiffusionObjective(CosineVP(), "v", UniformTimes())
    other = DiffusionObjective(CosineVP(), "v", UniformTimes(), 0.5, 7, weight=MinSNR(), scales=(1, 2), penalty="l1")

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert not (labels == 7).any()
        return 0.5 * x_t

    found = [loss_by_level(model, one, pictures, labels(230), LEVELS, seeds=seeds(230)) for one in (plain, other)]
    assert torch.equal(found[0].epsilon, found[1].epsilon)
    parts = [
        loss_by_level(model, plain, pictures[half], labels(115), LEVELS, seeds=seeds(230)[half])
        for half in (slice(115), slice(115, None))
    ]
    torch.testing.assert_close(found[0].x, (parts[0].x + parts[1].x) / 2)


def test_the_network_is_told_what_the_objective_says_and_any_condition_goes_along():
    told = []

    def model(x_t: Tensor, level: Tensor, condition: Condition) -> Tensor:
        told.append((level, condition.pooled))
        return x_t

    pooled, pictures = torch.arange(120.0)[:, None], gaussian_pictures(120, STD)
    for conditioning in ("time", "log_snr"):
        objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes(), conditioning=conditioning)
        loss_by_level(model, objective, pictures, Condition(pooled=pooled), [2.0], seeds=seeds(120))
    assert [len(level) for level, _ in told] == [100, 20] * 2
    assert torch.equal(torch.cat([pooled for _, pooled in told[:2]]), pooled)
    assert told[0][0].tolist() == pytest.approx([1 / (1 + math.e)] * 100) and told[2][0].tolist() == [2.0] * 100


def test_pixels_of_bytes_are_measured_as_training_reads_them():
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes())
    bytes_ = torch.randint(256, (20, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = [
        loss_by_level(lambda x, t, y: 0.2 * x, objective, x, labels(20), LEVELS, seeds=seeds(20))
        for x in (bytes_, bytes_.float() / 127.5 - 1)
    ]
    torch.testing.assert_close(found[0].x, found[1].x, rtol=1e-5, atol=0)


def test_measuring_leaves_the_model_and_torch_as_they_were():
    objective = DiffusionObjective(CosineVP(), "v", AdaptiveTimes(UniformTimes(), bins=4))
    model = Restless()
    before, learned = model.state(), [buffer.clone() for buffer in objective.buffers()]
    loss_by_level(model, objective, gaussian_pictures(120, STD), labels(120), LEVELS, seeds=seeds(120))
    torch.testing.assert_close(model.state(), before, rtol=0, atol=0)
    assert all(torch.equal(one, other) for one, other in zip(objective.buffers(), learned, strict=True))


@pytest.mark.parametrize(
    ("grid", "count", "said"),
    [
        ([], 4, "grid must hold levels"),
        ([0.0, 16.0], 4, r"grid must lie in \[-15, 15\].*16.0"),
        ([float("nan")], 4, "grid must lie in"),
        ([0.0], 0, "at least 1 picture"),
    ],
)
def test_levels_that_are_not_there_are_refused(grid, count, said):
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes())
    with pytest.raises(ValueError, match=said):
        loss_by_level(lambda *all: all[0], objective, torch.zeros(count, 1, 2, 2), None, grid, seeds=seeds(count))


def losses(errors: Tensor, levels: Tensor) -> LossByLevel:
    return LossByLevel(levels, errors, errors)


@pytest.mark.parametrize("density", [Normal(-1.0, 1.5), Laplace(-2.77, 0.5), Laplace(0, 0.7)], ids=repr)
def test_errors_are_weighed_by_importance(density):
    levels = torch.linspace(-12, 12, 25, dtype=torch.float64)
    slopes = torch.tensor([0.0, 0.4, -0.3], dtype=torch.float64)
    errors = 0.2 * (levels[:, None] * slopes).exp()
    if isinstance(density, Normal):
        factor = (slopes * density.mean + (slopes * density.std) ** 2 / 2).exp()
    else:
        factor = (slopes * density.mean).exp() / (1 - (slopes * density.scale) ** 2)
    found = importance_weighted_loss(losses(errors, levels), density)
    torch.testing.assert_close(found, 0.2 * factor, rtol=1e-3, atol=0)
    mixed = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(importance_weighted_loss(losses(errors[mixed], levels[mixed]), density), found)


def test_importance_where_nothing_was_measured_is_refused():
    levels = torch.tensor([5.0, 10.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="density must lie at the levels of losses, 5 to 10, got Normal"):
        importance_weighted_loss(losses(torch.ones(2, 1).double(), levels), Normal(-5, 0.5))

"""Objectives of few-step models: the exact flow map satisfies every rule, and no other map does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_maps import DEVIATION, MEAN, PATHS, exact_map, exact_network
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import RULES, DiffusionObjective, FlowMap, RectifiedFlow, TrajectoryObjective, UniformTimes

OF_DATA = ("consistency_training", "scm", "mean_flow")  # their single residuals are noise without a teacher
SEEDS = ops.derive_seeds(5, torch.arange(256))
LABELS = torch.zeros(256, dtype=torch.int64)


def data(seeds: Tensor = SEEDS) -> Tensor:
    return MEAN + DEVIATION * ops.gaussian(seeds, (3,), stream=ops.Purpose.CODE.stream(), dtype=torch.float64)


def objective(rule: str, path: str, **options: Any) -> TrajectoryObjective:
    schedule, prediction = PATHS[path]
    if RULES[rule].steps:
        options.setdefault("steps", 4)
    return TrajectoryObjective(rule, schedule, prediction, **options)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "consistency_training"])
def test_the_exact_map_has_no_residual_and_a_wrong_one_has(rule: str, path: str) -> None:
    for boundary in (0.0, 0.5):
        asked = objective(rule, path, teacher=exact_map(path), boundary=boundary)
        exact = asked.residual(exact_network(path), data(), LABELS, SEEDS)
        assert exact.abs().max() < 1e-6
        wrong = asked.residual(exact_network(path, 1.3), data(), LABELS, SEEDS)
        assert wrong.square().mean().sqrt() > 1e-3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", ["shortcut", "lagrangian"])
def test_a_map_that_knows_its_own_velocity_needs_no_teacher(rule: str, path: str) -> None:
    asked = objective(rule, path, boundary=0.0)
    assert asked.residual(exact_network(path), data(), LABELS, SEEDS).abs().max() < 1e-6
    assert asked.residual(exact_network(path, 1.3), data(), LABELS, SEEDS).square().mean().sqrt() > 1e-3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", [*OF_DATA, "shortcut", "lagrangian"])
def test_from_data_the_residual_of_the_exact_map_is_0_in_the_mean(rule: str, path: str) -> None:
    seeds = ops.derive_seeds(6, torch.arange(20_000))
    residual = objective(rule, path, boundary=0.3).residual(
        exact_network(path), data(seeds), torch.zeros_like(seeds), seeds
    )
    each = residual.mean(1)
    assert each.mean().abs() < 4.5 * each.std() / len(each) ** 0.5
    wrong = objective(rule, path, boundary=0.3).residual(
        exact_network(path, 1.3), data(seeds), torch.zeros_like(seeds), seeds
    )
    assert wrong.mean().abs() > 4.5 * wrong.mean(1).std() / len(each) ** 0.5


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_guidance_of_the_path_is_the_teacher_s_and_the_student_has_it_in_it(guidance: float) -> None:
    """Two labels of two Gaussians: the guided velocity is the mixture of theirs, at s = t."""

    def teacher(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x * torch.where(labels == 1, -0.5, 1.5)[:, None]

    asked = objective("mean_flow", "straight", teacher=teacher, guidance=guidance, null_label=1, boundary=1.0)
    slope = 1.5 * guidance - 0.5 * (1 - guidance)
    residual = asked.residual(lambda x, t, labels, s: slope * x, data(), LABELS, SEEDS)
    assert residual.abs().max() < 1e-9
    both = objective("consistency", "straight", teacher=teacher, guidance=guidance, null_label=1, boundary=0.0)
    span = both.span(SEEDS, torch.float64)
    x_t = ops.add_noise(data(), torch.stack((1 - span.t, span.t, 0 * span.t, 0 * span.t), -1), SEEDS)
    student = torch.zeros_like
    found = both.residual(lambda x, t, labels, s: student(x), data(), LABELS, SEEDS)
    moved = x_t * (1 - (span.t - span.middle) * slope)[:, None]
    torch.testing.assert_close(-found, (x_t - moved) / span.t[:, None])


def test_guidance_from_data_moves_the_velocity_away_from_the_student_s_own_without_a_label() -> None:
    asked = objective("mean_flow", "straight", guidance=3.0, null_label=1, boundary=1.0)

    def student(x: Tensor, t: Tensor, labels: Tensor, s: Tensor) -> Tensor:
        return torch.where(labels == 1, 0.25, 0.0)[:, None].double() + torch.zeros_like(x)

    z = ops.gaussian(SEEDS, (3,), dtype=torch.float64)
    torch.testing.assert_close(
        asked.residual(student, data(), LABELS, SEEDS), -(3 * (z - data()) + (1 - 3) * 0.25), atol=1e-9, rtol=0
    )


def test_a_range_of_guidance_is_told_and_dropped_labels_are_not_guided() -> None:
    told: list[Tensor] = []

    def teacher(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x * torch.where(labels == 1, 0.0, 1.0)[:, None]

    def student(x: Tensor, t: Tensor, labels: Tensor, s: Tensor, guidance: Tensor) -> Tensor:
        told.append(guidance)
        return x * torch.where(labels == 1, 0.0, guidance)[:, None]

    asked = objective(
        "mean_flow", "straight", teacher=teacher, guidance=(1.0, 4.0), null_label=1, label_drop=0.3, boundary=1.0
    )
    assert asked.residual(student, data(), LABELS, SEEDS).abs().max() < 1e-9
    assert 1 < told[0].min() < 1.2 and 3.8 < told[0].max() < 4


def test_the_predicted_tangent_is_the_student_s_own_velocity() -> None:
    asked = objective("mean_flow", "straight", tangent="predicted", boundary=0.0)
    residual = asked.residual(exact_network("straight"), data(), LABELS, SEEDS)
    span = asked.span(SEEDS, torch.float64)
    at = ops.add_noise(data(), torch.stack((1 - span.t, span.t, 0 * span.t, 0 * span.t), -1), SEEDS)
    velocity = exact_network("straight")(at, span.t, LABELS, span.t)
    torch.testing.assert_close(
        residual, velocity - ops.gaussian(SEEDS, (3,), dtype=torch.float64) + data(), atol=1e-9, rtol=0
    )


def test_the_loss_is_the_penalty_of_the_residual_and_s_equal_t_is_flow_matching() -> None:
    student = exact_network("straight", 1.3)
    for penalty, wanted in {
        "square": lambda total: total / 3,
        "pseudo_huber": lambda total: (total + 3 * 0.00054**2).sqrt() - 0.00054 * 3**0.5,
        "adaptive": lambda total: total / (total + 0.01),
        "normalized": lambda total: total / (total.sqrt() + 0.1),
    }.items():
        asked = objective("mean_flow", "straight", penalty=penalty)
        total = asked.residual(student, data(), LABELS, SEEDS).square().sum(1)
        torch.testing.assert_close(asked(student, data(), LABELS, SEEDS), wanted(total), rtol=1e-5, atol=1e-7)
    matching = objective("shortcut", "straight", boundary=1.0)
    plain = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes())
    same = lambda x, t, labels: student(x, t, labels, t)  # noqa: E731
    t = matching.span(SEEDS).t
    torch.testing.assert_close(
        matching(student, data(), LABELS, SEEDS).float(),
        plain.losses_at(same, data(), LABELS, SEEDS, t).float(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_no_gradient_goes_through_the_target_and_warm_up_leaves_the_derivative_out() -> None:
    model = nn.Linear(3, 3).double()
    asked = objective("mean_flow", "straight", boundary=0.0)
    student = lambda x, t, labels, s: model(x) * (1 + (t * s)[:, None])  # noqa: E731
    residual = asked.residual(student, data(), LABELS, SEEDS)
    (found,) = torch.autograd.grad(residual.sum(), model.bias)
    span = asked.span(SEEDS, torch.float64)
    torch.testing.assert_close(found, (1 + span.t * span.s).sum().expand(3))
    asked.warmup = 0.0
    plain = student(*_noised(span), LABELS, span.s) - (ops.gaussian(SEEDS, (3,), dtype=torch.float64) - data())
    torch.testing.assert_close(asked.residual(student, data(), LABELS, SEEDS), plain)


def _noised(span: Any) -> tuple[Tensor, Tensor]:
    rows = torch.stack((1 - span.t, span.t, 0 * span.t, 0 * span.t), -1)
    return ops.add_noise(data(), rows, SEEDS), span.t


def test_times_are_on_their_grids() -> None:
    span = objective("progressive", "straight", teacher=exact_map("straight"), boundary=0.0, steps=4).span(SEEDS)
    assert set((4 * span.t).tolist()) == {1, 2, 3, 4} and torch.equal(span.t - span.s, torch.full_like(span.t, 0.25))
    assert torch.equal(span.middle, span.t - 0.125)
    span = objective("shortcut", "straight", boundary=0.0, steps=8).span(SEEDS)
    assert set((span.t - span.s).tolist()) == {1, 0.5, 0.25} and torch.equal((8 * span.middle).round(), 8 * span.middle)
    span = objective("consistency_training", "straight", boundary=0.25, steps=4).span(SEEDS)
    assert not span.s[span.s != span.t].any() and 0.15 < (span.s == span.t).float().mean() < 0.35


def test_a_wrong_argument_is_one_sentence() -> None:
    straight = PATHS["straight"]
    for message, make in {
        "the rule consistency needs a teacher": lambda: objective("consistency", "straight"),
        "must be of the student's schedule": lambda: objective("scm", "angles", teacher=exact_map("straight")),
        "null_label must be given for guidance 2": lambda: objective("scm", "angles", guidance=2.0),
        "steps must be a power of two": lambda: objective("shortcut", "straight", steps=12),
        "steps is of rules on a grid": lambda: TrajectoryObjective("scm", *straight, steps=4),
        "guidance must be a number or a range": lambda: objective("scm", "angles", guidance=(3.0, 1.0), null_label=1),
        "rule must be one of": lambda: TrajectoryObjective("magic", *straight),
        "boundary": lambda: TrajectoryObjective("scm", *straight, boundary=1.5),
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
    assert isinstance(exact_map("angles"), FlowMap)

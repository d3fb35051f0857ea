"""Sampling by tables: convergence on a distribution whose denoiser is known, and independence of the batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    CosineVP,
    RectifiedFlow,
    Schedule,
    convert,
    euler_table,
    execute,
    sample,
    step_times,
)

SPREAD = 0.5  # of the data N(0, SPREAD²) in the exact denoiser
SEEDS = ops.derive_seeds(5, torch.arange(8))
LABELS = torch.arange(8)

every_schedule = pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP()], ids=repr)


def gaussian_model(schedule: Schedule, prediction: str):
    """The optimal network for N(0, SPREAD²): x̂ = α·SPREAD²·x_t/(α²·SPREAD² + σ²), as `prediction`."""

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        denoised = alpha * SPREAD**2 * x_t / (alpha**2 * SPREAD**2 + sigma**2)
        return convert(denoised, x_t, alpha, sigma, "x", prediction)

    return model


def spread_after(schedule: Schedule, prediction: str, steps: int) -> float:
    """The samples' standard deviation over the noise's: the model is linear, so every sample shows it exactly."""
    noise = ops.gaussian(SEEDS, (3,), stream=ops.Purpose.INITIAL_STATE.stream(), dtype=torch.float64)
    images = sample(
        gaussian_model(schedule, prediction),
        (3,),
        LABELS,
        SEEDS,
        schedule=schedule,
        prediction=prediction,
        steps=steps,
        dtype=torch.float64,
    )
    ratio = images / noise
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-6, atol=0)
    return ratio[0, 0].item()


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(RectifiedFlow(), kind) for kind in ("x", "v", "velocity", "edm")] + [(CosineVP(), kind) for kind in PREDICTIONS],
    ids=str,
)
def test_euler_reaches_the_gaussian_at_first_order(schedule: Schedule, prediction: str) -> None:
    errors = [abs(spread_after(schedule, prediction, steps) - SPREAD) for steps in (64, 128, 256, 512)]
    assert errors[-1] < 0.01 * SPREAD
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(0.9 < order < 1.15 for order in orders), (errors, orders)


def test_step_times_run_from_exactly_one_in_equal_steps_to_exactly_zero() -> None:
    assert step_times(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert step_times(1).tolist() == [1.0, 0.0]
    assert step_times(50).dtype == torch.float64 and len(step_times(50)) == 51


def test_zero_steps_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        step_times(0)


def test_the_table_of_rectified_flow_is_eulers_method_in_time() -> None:
    """x + (t' − t)·u, step by step, with a network that is not linear."""

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.sin(3 * x_t + t[:, None]) + labels[:, None]

    times, x = step_times(10), ops.gaussian(SEEDS, (5,), stream=ops.Purpose.INITIAL_STATE.stream(), dtype=torch.float64)
    for t, following in itertools.pairwise(times):
        x = x + (following - t) * network(x, t.expand(8), LABELS)
    images = sample(
        network, (5,), LABELS, SEEDS, schedule=RectifiedFlow(), prediction="velocity", steps=10, dtype=torch.float64
    )
    torch.testing.assert_close(images, x, rtol=1e-12, atol=1e-12)


def test_the_table_of_the_cosine_schedule_is_ddim() -> None:
    """x_s = α_s·x̂ + σ_s·ε̂ for any x̂."""
    schedule, times = CosineVP(), step_times(7)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    x, denoised = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    for row, (t, a, s, p, q) in enumerate(euler_table(schedule, times).tolist()):
        assert (t, a, s) == (times[row].item(), alpha[row].item(), sigma[row].item())
        noise = (x - a * denoised) / s
        torch.testing.assert_close(p * x + q * denoised, alpha[row + 1] * denoised + sigma[row + 1] * noise)


@every_schedule
def test_tables_are_finite_float64(schedule: Schedule) -> None:
    table = euler_table(schedule, step_times(50))
    assert table.dtype == torch.float64 and table.shape == (50, 5) and table.isfinite().all()


def test_the_last_step_of_rectified_flow_ends_on_the_denoised_image() -> None:
    assert euler_table(RectifiedFlow(), step_times(50))[-1, 3:].tolist() == [0.0, 1.0]


@every_schedule
def test_a_step_is_exact_where_the_denoised_image_does_not_change(schedule: Schedule) -> None:
    """However long: on the line α·x + σ·ε to the point of the line at the next time."""
    image, noise = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[-1.2]], dtype=torch.float64)
    times = torch.tensor([0.9, 0.1], dtype=torch.float64)
    start, end = (schedule.alpha(t) * image + schedule.sigma(t) * noise for t in times)
    torch.testing.assert_close(execute(euler_table(schedule, times), lambda x, *levels: image, start), end)


def test_a_image_depends_on_its_seed_and_label_alone() -> None:
    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        level = (t + labels).view(-1, 1, 1, 1)
        return x_t * level

    def draw(index: slice) -> Tensor:
        return sample(
            network,
            (3, 5, 7),
            LABELS[index],
            SEEDS[index],
            schedule=CosineVP(),
            prediction="v",
            steps=4,
            guidance=1.5,
            null_label=10,
        )

    together = draw(slice(0, 8))
    assert together.shape == (8, 3, 5, 7) and together.dtype == torch.float32
    for index in range(8):
        assert torch.equal(draw(slice(index, index + 1)), together[index : index + 1])


def test_the_network_is_called_once_a_step_without_and_at_twice_the_batch_with_guidance() -> None:
    batches: list[int] = []

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        batches.append(len(x_t))
        return x_t

    for guidance in (1.0, 2.0):
        sample(
            network,
            (2,),
            LABELS,
            SEEDS,
            schedule=RectifiedFlow(),
            prediction="velocity",
            steps=3,
            guidance=guidance,
            null_label=10,
        )
    assert batches == [8, 8, 8, 16, 16, 16]


def test_the_callback_sees_every_step_and_its_denoised_image() -> None:
    seen = []
    images = sample(
        lambda x_t, t, labels: torch.full_like(x_t, 0.25),
        (2,),
        LABELS,
        SEEDS,
        schedule=RectifiedFlow(),
        prediction="x",
        steps=4,
        callback=lambda step, t, x, denoised: seen.append((step, t, x.shape, denoised.unique().item())),
    )
    assert seen == [(step, 1 - step / 4, (8, 2), 0.25) for step in range(4)]
    torch.testing.assert_close(images, torch.full_like(images, 0.25))


def test_a_bfloat16_network_moves_a_float32_state() -> None:
    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert x_t.dtype == torch.bfloat16 and t.dtype == torch.float32
        return torch.zeros_like(x_t)

    images = sample(
        network,
        (4,),
        LABELS,
        SEEDS,
        schedule=RectifiedFlow(),
        prediction="velocity",
        steps=3,
        dtype=torch.bfloat16,
    )
    assert images.dtype == torch.float32
    torch.testing.assert_close(
        images, ops.gaussian(SEEDS, (4,), stream=ops.Purpose.INITIAL_STATE.stream()), rtol=1e-5, atol=1e-6
    )


def test_gradients_flow_through_the_steps_of_a_table() -> None:
    x = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    table = euler_table(RectifiedFlow(), step_times(3))
    assert torch.autograd.gradcheck(lambda x: execute(table, lambda x, *levels: torch.sin(x), x), x)


def test_arguments_that_cannot_be_sampled_with_are_refused_by_name() -> None:
    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t

    with pytest.raises(ValueError, match="prediction 'epsilon' cannot be sampled with RectifiedFlow"):
        sample(network, (2,), LABELS, SEEDS, schedule=RectifiedFlow(), prediction="epsilon")
    with pytest.raises(ValueError, match=r"labels and seeds must both have shape \[B\], got \[7\] and \[8\]"):
        sample(network, (2,), LABELS[:7], SEEDS, schedule=RectifiedFlow(), prediction="x")
    with pytest.raises(ValueError, match="null_label must be given"):
        sample(network, (2,), LABELS, SEEDS, schedule=RectifiedFlow(), prediction="x", guidance=2.0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sample(network, (2,), LABELS, SEEDS, schedule=RectifiedFlow(), prediction="x", steps=0)

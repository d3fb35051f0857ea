"""Distillation by distributions, on Gaussians of which every network is known."""

from __future__ import annotations

import pytest
import torch
from exact_maps import exact_map
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import RectifiedFlow, critic_loss, matching_direction, matching_loss, plan, sample
from visgen_fast.diffusion.flow_map import along
from visgen_fast.diffusion.matching import own_states

MEAN, SPREAD = 0.4, 0.6  # of the teacher
SEEDS = ops.derive_seeds(3, torch.arange(4096))


def seen(x_t: Tensor, t: Tensor, mean: Tensor | float, spread: Tensor | float) -> Tensor:
    """The mean image behind x_t of N(mean, spread²), on rectified flow."""
    alpha, sigma = 1 - t, t
    return mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x_t - alpha * mean)


def gradient(kind: str, mean: float, spread: float) -> Tensor:
    """Of the student's loss in its mean and spread; it draws mean + spread·z."""
    weights = torch.tensor([mean, spread], dtype=torch.float64, requires_grad=True)
    z, again = (ops.gaussian(SEEDS, (4,), stream=stream, dtype=torch.float64) for stream in (1, 2))
    t = 0.02 + 0.96 * ops.uniform(SEEDS, (1,)).double()
    x = weights[0] + weights[1] * z
    x_t = ((1 - t) * x + t * again).detach()
    direction = matching_direction(kind, x, seen(x_t, t, MEAN, SPREAD), seen(x_t, t, mean, spread))
    return torch.autograd.grad(matching_loss(x, direction).mean(), weights)[0]


@pytest.mark.parametrize("kind", ["dmd2", "moment_matching"])
def test_the_gradient_vanishes_at_the_teacher_and_leads_there_from_elsewhere(kind: str) -> None:
    assert gradient(kind, MEAN, SPREAD).abs().max() < 1e-12
    for mean, spread in ((1.0, 0.6), (-0.5, 0.6), (0.4, 1.2), (0.4, 0.2)):
        away = torch.tensor([mean - MEAN, spread - SPREAD], dtype=torch.float64)
        assert away @ gradient(kind, mean, spread) > 1e-3
    at = torch.tensor([-1.0, 1.5], dtype=torch.float64)
    for _ in range(150):
        at = at - 0.3 * gradient(kind, *at.tolist())
    assert (at - torch.tensor([MEAN, SPREAD]).double()).abs().max() < 0.02


def test_the_direction_of_dmd2_is_over_the_distance_to_the_teacher_s_image() -> None:
    x, teacher, critic = (torch.arange(8.0).view(2, 4) ** power for power in (1, 2, 0))
    plain = matching_direction("moment_matching", x, teacher, critic)
    assert torch.equal(plain, critic - teacher)
    apart = (x - teacher).abs().mean(1, keepdim=True)
    torch.testing.assert_close(matching_direction("dmd2", x, teacher, critic), plain / apart)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(matching_loss(x, plain).sum(), x)
    torch.testing.assert_close(slope, plain / 4)
    with pytest.raises(ValueError, match="kind must be one of dmd2, moment_matching"):
        matching_direction("magic", x, teacher, critic)


def test_the_critic_learns_the_student_s_images_and_moments_the_teacher_s_view_too() -> None:
    x, teacher, critic = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 3.0)
    weight = torch.tensor([1.0, 2.0])
    assert critic_loss("dmd2", x, None, critic, weight).tolist() == [9, 18]
    assert critic_loss("moment_matching", x, teacher, critic, weight).tolist() == [13, 26]


def test_a_student_of_several_steps_is_taught_at_the_states_that_sampling_meets() -> None:
    seeds = SEEDS[:6]
    place = torch.tensor([0, 1, 2, 3, 2, 0])
    student, times = exact_map("straight"), torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    found = own_states(student, seeds, (3,), torch.zeros_like(seeds), times, place)
    way = plan("consistency", RectifiedFlow(), "velocity", steps=4)
    met: list[Tensor] = []
    network = along(lambda x, t, labels, s: student.predict(x, t, s, labels), way)
    sample(
        *(network, way, (3,), torch.zeros_like(seeds), seeds),
        callback=lambda step, t, x, denoised: met.append(x.clone()),
        dtype=torch.float64,
    )
    wanted = torch.stack(met)[place, torch.arange(6)]
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)

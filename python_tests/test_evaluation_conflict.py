"""Conflict between noise levels, on networks whose gradients are known."""

from __future__ import annotations

import math

import pytest
import torch
from levels import Gain, Halves, Opposed, Restless, gaussian_pictures, seeds
from torch import Tensor

from visgen_fast.diffusion import (
    AdaptiveTimes,
    CosineVP,
    DiffusionObjective,
    LearnedVP,
    LowDiscrepancyTimes,
    UniformTimes,
)
from visgen_fast.evaluation import gradient_cosines, loss_by_level, transfer
from visgen_fast.evaluation.conflict import cosines_of

EDGES = [-4.0, -2.0, 0.0, 2.0, 4.0]
TOLD = DiffusionObjective(CosineVP(), "v", UniformTimes(), conditioning="log_snr")


def labels(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def test_halves_of_a_network_that_serve_other_levels_have_cosine_0():
    torch.manual_seed(0)
    pictures = gaussian_pictures(400, 0.6, (1, 4, 4))
    found = gradient_cosines(Halves(), TOLD, pictures, labels(400), EDGES, seeds=seeds(400))
    between = found.cosines[:2, 2:]
    assert (between == 0).all() and (found.standard_errors[:2, 2:] == 0).all()
    assert found.cosines[0, 1] > 0.5 and found.cosines[2, 3] > 0.2 and (found.standard_errors[:2, :2] < 0.1).all()
    assert found.cosines.diagonal().tolist() == pytest.approx([1] * 4)
    assert torch.equal(found.cosines, found.cosines.T) and torch.equal(found.gram, found.gram.T)


def test_levels_that_want_the_opposite_have_cosine_minus_1():
    objective = DiffusionObjective(CosineVP(), "x", UniformTimes(), conditioning="log_snr")
    pictures = torch.linspace(-1, 1, 16).view(1, 1, 4, 4).expand(64, -1, -1, -1)
    found = gradient_cosines(Opposed((1, 4, 4)), objective, pictures, labels(64), [-3.0, 0.0, 3.0], seeds=seeds(64))
    assert found.cosines[0, 1].item() == pytest.approx(-1, abs=1e-3) and found.standard_errors[0, 1] < 1e-3


def test_inner_products_are_those_of_the_objectives_parts():
    std, gain, count = 0.6, -0.5, 4000
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes())
    pictures = gaussian_pictures(count, std, (1, 4, 4))
    found = gradient_cosines(Gain(gain), objective, pictures, labels(count), EDGES, seeds=seeds(count))
    levels = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    alpha, sigma = objective.schedule.levels(levels)
    slope = 2 * (gain * (alpha**2 * std**2 + sigma**2) - alpha * sigma * (1 - std**2))
    whole = objective.level_density(levels) * slope
    parts = torch.stack([torch.trapezoid(whole[2000 * k : 2000 * k + 2001], dx=1e-3) for k in range(4)])
    torch.testing.assert_close(found.gram, parts.outer(parts), rtol=0.05, atol=0)
    coarse = gradient_cosines(Gain(gain), objective, pictures, labels(count), [-4.0, 4.0], seeds=seeds(count))
    assert coarse.gram.item() == pytest.approx(parts.sum().item() ** 2, rel=0.05)


def noisy_products(gradients: Tensor, noise: float, groups: int, generator: torch.Generator) -> Tensor:
    """Inner products of gradients [K, P] as each group of pictures would see them."""
    drawn = torch.randn(groups, *gradients.shape, dtype=torch.float64, generator=generator)
    # What a group's noise does to one gradient it does to all, as the same pictures do.
    shared = drawn[:, :1].expand_as(drawn)
    flat = (gradients + noise * (0.6 * shared + 0.8 * drawn)).flatten(0, 1)
    return (flat @ flat.T).view(groups, len(gradients), groups, len(gradients))


@pytest.mark.parametrize("noise", [0.4, 0.9])
def test_cosines_are_not_pulled_anywhere_by_noise_and_their_errors_are_right(noise):
    generator = torch.Generator().manual_seed(1)
    angle, size = 1.2, 400
    pair = torch.zeros(2, size, dtype=torch.float64)
    pair[0, :100], pair[1, :100] = 1.0, math.cos(angle)
    pair[1, 100:200] = math.sin(angle)
    found = [cosines_of(noisy_products(pair, noise, 8, generator)) for _ in range(400)]
    cosines = torch.stack([one.cosines[0, 1] for one in found])
    spread = cosines.std()
    assert (cosines.mean() - math.cos(angle)).abs() < 4 * spread / 20 + 0.005
    errors = torch.stack([one.standard_errors[0, 1] for one in found])
    assert 0.8 * spread < errors.square().mean().sqrt() < 1.5 * spread
    together = torch.stack([noisy_products(pair, noise, 8, generator).mean((0, 2)) for _ in range(20)])
    naive = (together[:, 0, 1] / (together[:, 0, 0] * together[:, 1, 1]).sqrt()).mean()
    assert noise < 0.5 or naive - math.cos(angle) > 0.03  # with the noise that both gradients share


def test_there_is_no_cosine_of_a_gradient_that_is_only_noise():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.stack((torch.ones(300), torch.zeros(300))).double()
    seen = [cosines_of(noisy_products(gradients, 1.0, 8, generator)) for _ in range(40)]
    assert sum(one.cosines[1].isfinite().any().item() for one in seen) < 8
    assert all(one.cosines[0, 0] == 1 and one.gram.isfinite().all() for one in seen)


def test_tuning_one_half_of_a_network_leaves_the_levels_of_the_other_alone():
    torch.manual_seed(0)
    pictures = gaussian_pictures(200, 0.6, (1, 4, 4))
    found = transfer(Halves(), TOLD, pictures, labels(200), EDGES, seeds=seeds(200), steps=40, learning_rate=0.01)
    assert found.log_ratios.shape == (4, 4) and found.together.shape == (4,)
    assert (found.log_ratios[:2, 2:] == 0).all() and (found.log_ratios[2:, :2] == 0).all()
    assert (found.log_ratios.diagonal() < -0.1).all() and (found.together < -0.1).all()
    assert found.log_ratios[0, 1] < 0 and found.log_ratios[1, 0] < 0


def test_tuning_on_levels_that_want_the_opposite_harms():
    objective = DiffusionObjective(CosineVP(), "x", UniformTimes(), conditioning="log_snr")
    pictures = torch.linspace(-1, 1, 16).view(1, 1, 4, 4).expand(64, -1, -1, -1)
    options = {"seeds": seeds(64), "steps": 20, "learning_rate": 0.01}
    found = transfer(Opposed((1, 4, 4)), objective, pictures, labels(64), [-3.0, 0.0, 3.0], **options)
    assert (found.log_ratios.diagonal() < -0.2).all()
    assert found.log_ratios[0, 1] > 0.2 and found.log_ratios[1, 0] > 0.2
    again = transfer(Opposed((1, 4, 4)), objective, pictures, labels(64), [-3.0, 0.0, 3.0], **options)
    assert torch.equal(found.log_ratios, again.log_ratios) and torch.equal(found.together, again.together)


def test_measuring_leaves_model_objective_and_torch_as_they_were():
    times = LowDiscrepancyTimes(AdaptiveTimes(UniformTimes(), bins=4))
    objective, model = DiffusionObjective(LearnedVP(-6, 6, features=4), "v", times, 0.5, 3), Restless()
    pictures = gaussian_pictures(16, 0.6)
    before, learned = model.state(), [buffer.clone() for buffer in objective.buffers()]
    with torch.no_grad():  # which must not matter
        gradient_cosines(model, objective, pictures, labels(16), EDGES, seeds=seeds(16))
    transfer(model, objective, pictures, labels(16), EDGES, seeds=seeds(16), steps=2, learning_rate=0.1)
    torch.testing.assert_close(model.state(), before, rtol=0, atol=0)
    assert all(torch.equal(one, other) for one, other in zip(objective.buffers(), learned, strict=True))
    assert times.times._seen is None and all(one.grad is None for one in objective.parameters())


@pytest.mark.parametrize(
    ("grid", "count", "said"),
    [
        ([0.0], 8, "grid must hold the edges of intervals"),
        ([1.0, 0.0], 8, "grid must hold the edges of intervals"),
        ([-20.0, 0.0], 8, r"grid must lie in \[-15, 15\]"),
        ([-1.0, 1.0], 7, "pictures must be at least 8, got 7"),
    ],
)
def test_intervals_that_are_none_and_too_few_pictures_are_refused(grid, count, said):
    with pytest.raises(ValueError, match=said):
        gradient_cosines(Gain(0.1), TOLD, torch.zeros(count, 1, 2, 2), None, grid, seeds=seeds(count))


def test_labels_of_fewer_pictures_are_refused():
    pictures = torch.zeros(16, 1, 2, 2)
    with pytest.raises(ValueError, match=r"labels and seeds must both have shape \[B\], got \[5\] and \[16\]"):
        gradient_cosines(Gain(0.1), TOLD, pictures, labels(5), [-1.0, 1.0], seeds=seeds(16))
    with pytest.raises(ValueError, match=r"labels and seeds must both have shape \[B\], got \[17\] and \[16\]"):
        loss_by_level(Gain(0.1), TOLD, pictures, labels(17), [0.0], seeds=seeds(16))


def test_mistakes_of_tuning_are_refused():
    def tune(model: torch.nn.Module, **options: float) -> None:
        every = {"steps": 2, "learning_rate": 0.1, **options}
        transfer(model, TOLD, torch.zeros(8, 1, 2, 2), None, [-1.0, 1.0], seeds=seeds(8), **every)  # type: ignore

    with pytest.raises(ValueError, match="1 step and a positive learning_rate, got 8, 0 and 0.1"):
        tune(Gain(0.1), steps=0)
    with pytest.raises(ValueError, match="positive learning_rate"):
        tune(Gain(0.1), learning_rate=0)
    with pytest.raises(ValueError, match="positive learning_rate, got 8, 2 and inf"):
        tune(Gain(0.1), learning_rate=math.inf)
    with pytest.raises(TypeError, match="steps must be an integer, got float"):
        tune(Gain(0.1), steps=1.5)
    with pytest.raises(ValueError, match="parameters that require a gradient"):
        tune(Gain(0.1).requires_grad_(False))

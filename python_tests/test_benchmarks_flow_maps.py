"""Few-step objectives on a mixture in one dimension, where the exact map is known."""

import pytest
import torch

from benchmarks.flow_maps import consistency_step, draw, exact_end, exact_teacher, mixture
from visgen_fast import ops
from visgen_fast.diffusion import CosineVP, RectifiedFlow


@pytest.mark.parametrize(("schedule", "prediction"), [(RectifiedFlow(), "velocity"), (CosineVP(), "v")])
def test_the_exact_map_is_where_many_steps_of_the_exact_teacher_lead(schedule, prediction):
    from visgen_fast.diffusion import plan, sample

    seeds = ops.derive_seeds(0, torch.arange(64))
    noise = ops.gaussian(seeds, (1,), dtype=torch.float64)
    way = plan("heun", schedule, prediction, steps=200)
    found = sample(exact_teacher(schedule, prediction), way, (1,), None, seeds, noise=noise, dtype=torch.float64)
    assert (found - exact_end(noise)).abs().max() < 0.02
    drawn = draw(ops.derive_seeds(0, torch.arange(20_000)))
    assert abs(drawn.mean()) < 0.04 and abs(drawn.var() - 1) < 0.02


@pytest.mark.parametrize("rule", ["mean_flow", "lagrangian", "consistency"])
def test_a_few_hundred_steps_take_most_of_the_one_step_error_away(rule):
    found = mixture(rule, 200, batch=256, rate=5e-3)
    assert found["euler"] > 0.9 and found["error"] < 0.55 * found["euler"]


def test_a_consistency_step_holds_few_pictures():
    assert consistency_step((4, 3, 64, 64), 1)["pictures"]["ours"] < 4.5

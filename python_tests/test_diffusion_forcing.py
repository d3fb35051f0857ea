"""A noise level for each frame: plans, sampling along them, and training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    AdaptiveTimes,
    ClassifierFree,
    DiffusionObjective,
    ForcingObjective,
    MinSNR,
    RectifiedFlow,
    UniformTimes,
    frame_plan,
    plan,
    sample,
    sample_frames,
)

SHAPE = (2, 3, 4, 4)
SEEDS = torch.tensor([3, 8])
LABELS = torch.tensor([0, 1])


def network(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Any function, in which frames see those before them, and times frames of their own."""
    t = t[:, None].expand(-1, x.shape[2]) if t.dim() == 1 else t
    by_frame = (0.3 + t + 0.1 * labels[:, None])[:, None, :, None, None]
    return torch.sin(x.cumsum(2)) * by_frame - 0.5 * x


def test_plans_are_the_papers_matrices():
    assert (frame_plan(2, 2) * 2).tolist() == [[2, 2], [1, 1], [0, 0]]
    assert (frame_plan(3, 2, "pyramid") * 2).tolist() == [[2, 2, 2], [1, 2, 2], [0, 1, 2], [0, 0, 1], [0, 0, 0]]
    one_by_one = [[0, 2, 2], [0, 1, 2], [0, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert (frame_plan(3, 2, "one_by_one", context=1) * 2).tolist() == one_by_one


@pytest.mark.parametrize("sampler", ["euler", "dpm++2m", "ddpm"])
@pytest.mark.parametrize("prediction", ["velocity", "edm"])
def test_one_level_for_all_frames_is_plain_sampling_bit_for_bit(sampler, prediction):
    table = plan(sampler, RectifiedFlow(), prediction, times=torch.linspace(0.9, 0, 5))
    guidance = ClassifierFree(lambda time: 1 + time, null_label=2)
    whole = sample(network, table, SHAPE, LABELS, SEEDS, guidance=guidance)
    found = sample_frames(network, table, frame_plan(3, 4), SHAPE, LABELS, SEEDS, guidance=guidance)
    assert torch.equal(found, whole)


@pytest.mark.parametrize("kind", ["one_by_one", "pyramid"])
def test_frames_that_see_no_others_go_their_way_whenever_they_do(kind):
    def alone(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.sin(x) * (t[:, None, :, None, None] if t.dim() == 2 else t[:, None, None, None, None])

    table = plan("dpm++2m", RectifiedFlow(), "velocity", steps=4)
    found = sample_frames(alone, table, frame_plan(3, 4, kind), SHAPE, LABELS, SEEDS)
    torch.testing.assert_close(found, sample(alone, table, SHAPE, LABELS, SEEDS), rtol=0, atol=0)


def test_context_stays_and_is_read_at_its_level():
    table, read = plan("euler", RectifiedFlow(), "velocity", steps=2), []

    def watched(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        read.append((x.clone(), t.clone()))
        return network(x, t, labels)

    context = torch.randn(2, 2, 1, 4, 4)
    times = frame_plan(3, 2, "one_by_one", context=1)
    found = sample_frames(watched, table, times, SHAPE, LABELS, SEEDS, context=context, context_time=0.25)
    assert torch.equal(found[:, :, :1], context)
    told = torch.stack([t[0] for _, t in read])
    assert told.tolist() == [[0.25, 1, 1], [0.25, 0.5, 1], [0.25, 0.25, 1], [0.25, 0.25, 0.5]]
    noise = ops.gaussian(SEEDS, SHAPE, stream=ops.Purpose.INITIAL_STATE.stream())
    torch.testing.assert_close(read[0][0][:, :, :1], 0.75 * context + 0.25 * noise[:, :, :1])


def test_a_clip_is_the_same_alone_and_in_a_batch():
    table, times = plan("ddpm", RectifiedFlow(), "velocity", steps=3), frame_plan(3, 3, "pyramid")
    both = sample_frames(network, table, times, SHAPE, LABELS, SEEDS)
    alone = sample_frames(network, table, times, SHAPE, LABELS[1:], SEEDS[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_what_does_not_fit_is_refused():
    table = plan("euler", RectifiedFlow(), "velocity", steps=2)
    given = {"shape": SHAPE, "labels": LABELS, "seeds": SEEDS}
    with pytest.raises(ValueError, match="context must lie in .0, 2., got 3"):
        frame_plan(3, 2, context=3)
    with pytest.raises(ValueError, match="multiples of 1/2"):
        sample_frames(network, table, frame_plan(3, 3), **given)
    with pytest.raises(ValueError, match=r"times must be \[rows, T\]"):
        sample_frames(network, table, frame_plan(4, 2), **given)
    with pytest.raises(ValueError, match=r"context must be \[2, 2, 1, 4, 4\], as times say, got None"):
        sample_frames(network, table, frame_plan(3, 2, context=1), **given)
    with pytest.raises(ValueError, match="one network call a step, got 3 calls of heun in 2 steps"):
        heun = plan("heun", RectifiedFlow(), "velocity", steps=2)
        sample_frames(network, heun, frame_plan(3, 2), **given)
    with pytest.raises(ValueError, match="guidance must do the same in all steps"):
        part = ClassifierFree(2.0, null_label=2, interval=(0.6, 1))
        sample_frames(network, table, frame_plan(3, 2), **given, guidance=part)
    with pytest.raises(ValueError, match="times must not adapt"):
        ForcingObjective(RectifiedFlow(), "velocity", AdaptiveTimes(UniformTimes()))


def test_training_weighs_each_frame_at_its_own_time():
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    bare, plain = (
        DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes(), weight=weight) for weight in (None, MinSNR())
    )
    t = torch.tensor([[0.2, 0.5, 0.9], [0.7, 0.1, 0.4]])
    found = plain.losses_at(network, x, LABELS, SEEDS, t)
    common, alike = t[:, 0], t[:, :1].expand(-1, 3)
    assert torch.equal(
        bare.losses_at(network, x, LABELS, SEEDS, alike), bare.losses_at(network, x, LABELS, SEEDS, common)
    )
    # A weight of each frame multiplies its errors before they are added up, one of the clip their sum.
    torch.testing.assert_close(
        plain.losses_at(network, x, LABELS, SEEDS, alike), plain.losses_at(network, x, LABELS, SEEDS, common)
    )
    noise = ops.gaussian(SEEDS, SHAPE)
    by_frame = t[:, None, :, None, None]
    error = network((1 - by_frame) * x + by_frame * noise, t, LABELS) - (noise - x)
    expected = (error.square() * plain.sample_weights(t)[:, None, :, None, None]).mean((1, 2, 3, 4))
    torch.testing.assert_close(found, expected)

    told = []
    ForcingObjective(RectifiedFlow(), "velocity", UniformTimes())(
        lambda x, t, labels: told.append(t) or network(x, t, labels), x, LABELS, SEEDS
    )
    assert told[0].shape == (2, 3) and len(told[0].unique()) == 6

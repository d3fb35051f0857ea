"""The diffusion transformer of clips: a time for each frame, and frames that see earlier ones alone."""

from __future__ import annotations

import pytest
import torch

from python_tests.test_models_dit import awake
from visgen_fast.diffusion import RectifiedFlow, frame_plan, plan, sample, sample_frames
from visgen_fast.models import DiT, MMDiT
from visgen_fast.nn.conditions import Condition

FRAMES, SHAPE = 3, (2, 3, 4, 8)
VARIANTS = [{}, {"rotary": True, "normalized": True, "mlp": "swiglu", "destination": True, "told_guidance": True}]


def clips(**changes) -> DiT:
    torch.manual_seed(0)
    sizes = {"image_size": SHAPE[1:], "channels": 2, "patch_size": 2, "width": 24, "depth": 2, "heads": 2, "classes": 4}
    return awake(DiT(**{**sizes, **changes}))


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, *SHAPE, generator=generator), torch.rand(2, 3, generator=generator), torch.tensor([1, 3])


@pytest.mark.parametrize("options", VARIANTS)
def test_one_time_for_all_frames_gives_the_same_bits_as_one_time(options):
    model, (x, t, labels) = clips(**options), given()
    one = model(x, t[:, 0], labels)
    assert one.shape == x.shape and torch.equal(one, model(x, t[:, :1].expand(-1, FRAMES), labels))
    assert not torch.equal(one, model(x, t, labels))
    assert [found.shape for found in model.features(x, t, labels)] == [(2, FRAMES, 8, 24)] * 2


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("causal", [True, False])
def test_frames_of_a_causal_network_see_no_later_frame_nor_its_time(options, causal):
    model, (x, t, labels) = clips(causal=causal, **options).double(), given()
    x, t = x.double(), t.double()
    for frame in range(FRAMES):
        x_t, times = x.clone().requires_grad_(), t.clone().requires_grad_()
        model(x_t, times, labels)[:, :, frame].square().sum().backward()
        seen = [bool(x_t.grad[:, :, k].any()) for k in range(FRAMES)]
        assert seen == [bool(times.grad[:, k].any()) for k in range(FRAMES)]
        assert seen == [not causal or k <= frame for k in range(FRAMES)]


def test_frames_and_places_are_told_apart():
    for options in VARIANTS:
        model, (x, t, labels) = clips(**options), given()
        one, same = x[:, :, :1].expand(-1, -1, FRAMES, -1, -1), t[:, :1].expand(-1, FRAMES)
        x_t = torch.cat((one[:, :, :2], x[:, :, 2:]), 2)
        found = model(x_t, same, labels)
        assert not torch.allclose(found[:, :, 0], found[:, :, 1], atol=1e-4)


def test_clips_attend_to_the_tokens_of_a_condition():
    model, (x, t, _) = clips(classes=None, pooled=5, tokens=6, causal=True), given()
    condition = Condition(pooled=torch.randn(2, 5), tokens=torch.randn(2, 4, 6), mask=torch.ones(2, 4).bool())
    other = Condition(pooled=condition.pooled, tokens=condition.tokens.flip(1) * 2, mask=condition.mask)
    assert not torch.allclose(model(x, t, condition), model(x, t, other))


def test_sampling_frames_at_one_level_is_sampling_clips():
    model, (_, _, labels) = clips(causal=True), given()
    table, seeds = plan("euler", RectifiedFlow(), "velocity", steps=3), torch.tensor([5, 6])
    whole = sample(model, table, SHAPE, labels, seeds)
    assert torch.equal(sample_frames(model, table, frame_plan(FRAMES, 3), SHAPE, labels, seeds), whole)
    times = frame_plan(FRAMES, 3, "one_by_one")
    both = sample_frames(model, table, times, SHAPE, labels, seeds)
    alone = sample_frames(model, table, times, SHAPE, labels[1:], seeds[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_what_does_not_fit_is_refused():
    x, t, labels = given()
    with pytest.raises(ValueError, match=r"x_t must have shape \[B, 2, 3, 4, 8\], got \[2, 2, 2, 4, 8\]"):
        clips()(x[:, :, :2], t, labels)
    with pytest.raises(ValueError, match=r"\(frames, height, width\), as causal needs it, got \(4, 8\)"):
        clips(image_size=(4, 8), causal=True)
    with pytest.raises(ValueError, match="at least 8 for clips, got 4"):
        clips(heads=6, rotary=True)
    with pytest.raises(ValueError, match="patch_size must divide image_size"):
        clips(image_size=(3, 4, 7))
    sizes = {"channels": 2, "patch_size": 2, "width": 24, "depth": 1, "heads": 2, "pooled": 5, "tokens": 6}
    with pytest.raises(ValueError, match="of images, for an MMDiT"):
        MMDiT(image_size=(3, 4, 8), **sizes)

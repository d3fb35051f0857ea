"""Guidance: outputs and weights whose sum is the published formula, and tables that are."""

from __future__ import annotations

import math

import pytest
import torch
from guided import KINDS, LABELS, STEPS, Recorder, as_images, began, both, combined, images, network, summed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.diffusion import (
    SAMPLERS,
    Auto,
    Classifier,
    ClassifierFree,
    CosineVP,
    DynamicThresholding,
    PlusPlus,
    Projected,
    TwoConditions,
    Unguided,
    Upsample,
    ZeroStar,
    plan,
    sample,
    to_noise,
)
from visgen_fast.nn.conditions import Condition, null_like


@given(scale=st.floats(0, 10).filter(lambda scale: scale not in (0, 1)))
def test_guidance_forms_agree_and_take_one_doubled_call(scale: float) -> None:
    model, x_t = Recorder(), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    result = combined(ClassifierFree(scale, 10), model, x_t, LABELS)
    assert model.batches == [4]
    t = STEPS.times[2].expand(2)
    conditional, unconditional = model(x_t, t, LABELS), model(x_t, t, torch.tensor([10, 10]))
    w = scale - 1
    torch.testing.assert_close(result, (1 + w) * conditional - w * unconditional, rtol=1e-9, atol=1e-9)
    other = combined(ClassifierFree.from_weight(w, 10), model, x_t, LABELS)
    torch.testing.assert_close(other, result, rtol=1e-9, atol=1e-9)


@given(share=st.floats(0.05, 1), scale=st.floats(1.5, 9))
def test_rescaling_moves_the_spread_of_each_sample_towards_the_conditional_one_s(share: float, scale: float) -> None:
    """diffusers' rescale_noise_cfg, with the unbiased standard deviation."""
    x_t = images(0)
    conditional, unconditional = both(x_t, 2)
    guided = unconditional + scale * (conditional - unconditional)
    spread = [some.flatten(1).std(1).view(-1, 1, 1, 1) for some in (conditional, guided)]
    expected = share * guided * spread[0] / spread[1] + (1 - share) * guided
    result = combined(ClassifierFree(scale, 10, rescale=share), network, x_t, LABELS)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_rescaling_of_a_flat_output_changes_nothing(level: float) -> None:
    """That of a network whose last layer begins at 0, as DiT's does."""

    def flat(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.full_like(x, level)

    result = combined(ClassifierFree(3.0, 10, rescale=0.7), flat, torch.randn(2, 3, 4), LABELS)
    torch.testing.assert_close(result, torch.full_like(result, level))


def test_guidance_takes_any_condition() -> None:
    def model(x_t: Tensor, t: Tensor, some: Condition) -> Tensor:
        assert some.pooled is not None
        return x_t * some.pooled.mean(1)[:, None]

    whole, null = Condition(pooled=torch.rand(3, 4)), Condition(pooled=torch.rand(1, 4))
    x_t, t = torch.randn(3, 2).double(), torch.rand(3)
    plain, absent = model(x_t, t, whole), model(x_t, t, null_like(whole, null))
    result = combined(ClassifierFree(3.0, null), model, x_t, whole)
    torch.testing.assert_close(result, absent + 3 * (plain - absent))


@pytest.mark.parametrize(("schedule", "kind"), KINDS)
@pytest.mark.parametrize(("eta", "limit", "momentum"), [(0.0, None, 0.0), (0.3, 0.1, 0.0), (0.0, 0.1, -0.75)])
def test_projected_guidance_is_the_published_algorithm_on_denoised_images(schedule, kind, eta, limit, momentum) -> None:
    steps, scale, running = plan("heun", schedule, kind, times=[0.9, 0.6, 0.3, 0.1]), 7.0, 0
    guiding = began(Projected(scale, 10, eta=eta, limit=limit, momentum=momentum), network, LABELS, 2, steps)
    for row in range(steps.calls):
        x = images(row)
        conditional, unconditional = (as_images(output, x, row, steps) for output in both(x, row, steps))
        running = conditional - unconditional + momentum * running
        difference = running
        if limit is not None:
            norm = difference.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            assert (norm > limit).any()
            difference = difference * (limit / norm).clamp_max(1)
        direction = F.normalize(conditional.flatten(1)).view_as(conditional)
        parallel = (difference * direction).sum((1, 2, 3), keepdim=True) * direction
        expected = conditional + (scale - 1) * (difference - parallel + eta * parallel)
        found = as_images(summed(guiding.evaluate(x, steps.times[row].expand(2), row), row), x, row, steps)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_projected_guidance_that_keeps_everything_is_classifier_free_guidance() -> None:
    x = images(0)
    plain = combined(ClassifierFree(4.0, 10), network, x, LABELS)
    torch.testing.assert_close(combined(Projected(4.0, 10, eta=1.0), network, x, LABELS), plain)


def test_zero_star_fits_the_unconditional_output_and_begins_without_a_network() -> None:
    x, model = images(0), Recorder()
    conditional, unconditional = both(x, 2)
    share = (conditional * unconditional).sum((1, 2, 3)) / unconditional.square().sum((1, 2, 3))
    fitted = share.view(-1, 1, 1, 1) * unconditional
    result = combined(ZeroStar(3.0, 10, zero_steps=2), network, x, LABELS)
    torch.testing.assert_close(result, fitted + 3.0 * (conditional - fitted))
    states: list[Tensor] = []
    sample(
        model, STEPS, (1,), LABELS, LABELS, guidance=ZeroStar(3.0, 10, zero_steps=2), dtype=torch.float64,
        callback=lambda step, t, x, denoised: states.append(x),
    )  # fmt: skip
    assert model.batches == [4, 4] and torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])


@pytest.mark.parametrize(("schedule", "kind"), KINDS)
def test_plus_plus_on_ddim_renoises_with_the_unconditional_noise(schedule, kind) -> None:
    """Chung et al., 2024, algorithm 2."""
    steps, states = plan("ddim", schedule, kind, times=[0.95, 0.6, 0.3, 0.1]), []
    sample(
        network, steps, (3, 4, 4), LABELS, LABELS, guidance=PlusPlus(0.6, 10), dtype=torch.float64,
        callback=lambda step, t, x, denoised: states.append(x),
    )  # fmt: skip
    for row in range(2):
        x, levels, scale = states[row], steps.ends[row : row + 2], steps.input_scale
        conditional, unconditional = (as_images(output, x, row, steps) for output in both(x, row, steps))
        level = torch.tensor([levels[0].alpha, levels[0].sigma], dtype=torch.float64)
        noise = to_noise(both(x, row, steps)[1], x / scale(levels[0]), level[0], level[1], kind)
        denoised = unconditional + 0.6 * (conditional - unconditional)
        expected = scale(levels[1]) * (levels[1].alpha * denoised + levels[1].sigma * noise)
        torch.testing.assert_close(states[row + 1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_plus_plus_moves_the_state_of_every_sampler_before_its_formulas(name: str) -> None:
    """Each row does what the plain one does with x_t + α·(x̂ − x̂_u) in the place of x_t, and the same x̂."""
    steps = plan(name, CosineVP(), "edm", steps=6)
    x, conditional, unconditional, z = (images(key) for key in range(4))
    slots = tuple(images(10 + k) for k in range(steps.slots))
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    interval = (0.3, 0.7)
    table = began(PlusPlus(0.3, 10, interval=interval), network, LABELS, 2, steps).table
    for row in range(steps.calls):
        inside = interval[0] <= steps.ends[steps.step_of_row[row]].time <= interval[1]
        alpha, sigma = (level(steps.times[row]) for level in (steps.schedule.alpha, steps.schedule.sigma))
        scale = steps.prediction.input_scale(alpha, sigma)
        guided = as_images(0.3 * conditional + 0.7 * unconditional, x, row, steps)
        moved = x + scale * alpha * (guided - as_images(unconditional, x, row, steps)) * inside
        plain = steps.table.clone()
        plain[row, 1:3] = torch.tensor([0.0, 1.0])  # the output is x̂ itself
        outputs = (conditional, unconditional)
        found = ops.solver_step(x, outputs, table, row, slots=slots, weights=weights, noise=z)
        expected = ops.solver_step(moved, guided, plain, row, slots=slots, noise=z)
        for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_autoguidance_moves_away_from_the_guide() -> None:
    x, t = images(0), STEPS.times[2].expand(2)

    def guide(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * network(x_t, t, labels) + x_t

    weak, strong = guide(x, t, LABELS), network(x, t, LABELS)
    torch.testing.assert_close(combined(Auto(2.1, guide), network, x, LABELS), weak + 2.1 * (strong - weak))


def test_two_conditions_have_a_scale_each_and_take_one_call() -> None:
    x, model = images(0)[:, :, 0, 0], Recorder()

    def first(labels: Tensor) -> Tensor:
        return labels + 20

    found = combined(TwoConditions(7.5, 1.5, 10, first), model, x, LABELS)
    assert model.batches == [6]
    t = STEPS.times[2].expand(2)
    whole, part, nothing = (Recorder.answer(x, t, told) for told in (LABELS, LABELS + 20, torch.full_like(LABELS, 10)))
    torch.testing.assert_close(found, nothing + 1.5 * (part - nothing) + 7.5 * (whole - part))


@pytest.mark.parametrize(("schedule", "kind"), KINDS)
def test_a_classifier_shifts_the_noise_by_its_gradient(schedule, kind) -> None:
    """ε̂ − s·σ·∇ log p(y | x_t), Dhariwal and Nichol, 2021, algorithm 2."""
    steps, weight = plan("heun", schedule, kind, times=[0.9, 0.5, 0.2]), images(7)

    def log_probability(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return (weight * x_t.sin()).sum((1, 2, 3)) * t * labels

    guiding = began(Classifier(2.0, log_probability), network, LABELS, 2, steps)
    for row in range(steps.calls):
        x, t = images(row), steps.times[row]
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        scale = 1 if steps.prediction.input_scale is None else steps.prediction.input_scale(alpha, sigma)
        gradient = weight * (x / scale).cos() * t * LABELS.view(-1, 1, 1, 1)
        before = to_noise(both(x, row, steps)[0], x / scale, alpha, sigma, kind)
        with torch.no_grad():
            guided = guiding.evaluate(x, t.expand(2), row)
        after = to_noise(summed(guided, row), x / scale, alpha, sigma, kind)
        torch.testing.assert_close(after, before - 2.0 * sigma * gradient, rtol=1e-8, atol=1e-8)


def test_the_callback_sees_what_the_step_makes_of_weights_that_change_by_row() -> None:
    steps, seen = plan("heun", CosineVP(), "v", times=[0.9, 0.5, 0.2]), []
    guidance = Classifier(2.0, lambda x, t, y: x.sin().sum((1, 2, 3)))
    sample(
        network, steps, (3, 4, 4), LABELS, LABELS, guidance=guidance, dtype=torch.float64,
        callback=lambda step, t, x, denoised: seen.append((x, denoised)),
    )  # fmt: skip
    for (x, denoised), row in zip(seen, (0, 2), strict=True):
        expected = as_images(combined(guidance, network, x, LABELS, row, steps), x, row, steps)
        torch.testing.assert_close(denoised, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("most", [math.inf, 1.5])
def test_dynamic_thresholding_holds_the_guided_image_within_its_quantile(most: float) -> None:
    x, seen = images(0), []
    guiding = began(DynamicThresholding(ClassifierFree(6.0, 10), 0.9, most), network, LABELS, 2)
    guided = guiding.evaluate(x, STEPS.times[1].expand(2), 1)
    denoised = as_images(summed(guided, 1), x, 1, STEPS)
    limit = torch.quantile(denoised.abs().flatten(1), 0.9, dim=1).clamp(1, most)
    assert (limit > 1.4).all()
    torch.testing.assert_close(guided.limit.double(), limit)
    sample(
        network, STEPS, (3, 4, 4), LABELS, LABELS, guidance=DynamicThresholding(ClassifierFree(6.0, 10), 0.9, most),
        callback=lambda step, t, x, denoised: seen.append(denoised),
    )  # fmt: skip
    assert len(seen) == 4 and all(1 - 1e-6 <= image.abs().max() <= 1 for image in seen)


EVERY = [
    Upsample(0.8, 2, ClassifierFree(2.0, 10)),
    Unguided(), ClassifierFree(3.0, 10), ClassifierFree(3.0, 10, rescale=0.7), PlusPlus(0.6, 10), Auto(2.0, network),
    Projected(5.0, 10, limit=2.0, momentum=-0.5), ZeroStar(3.0, 10), TwoConditions(3.0, 2.0, 10, lambda y: y + 1),
    Classifier(2.0, lambda x, t, y: -(x.square().flatten(1).sum(1))), DynamicThresholding(Projected(5.0, 10)),
]  # fmt: skip


@pytest.mark.parametrize("guidance", EVERY, ids=lambda g: type(g).__name__)
@pytest.mark.parametrize(("sampler", "schedule", "kind"), [("dpm++2m", *KINDS[0]), ("heun", *KINDS[2])])
def test_a_guided_image_depends_on_its_seed_alone_and_a_guidance_remembers_no_run(
    guidance, sampler, schedule, kind
) -> None:
    steps = plan(sampler, schedule, kind, steps=4)
    labels, seeds = torch.arange(4), ops.derive_seeds(0, torch.arange(4))

    def draw(part: slice) -> Tensor:
        return sample(network, steps, (3, 4, 4), labels[part], seeds[part], guidance=guidance)

    together = draw(slice(0, 4))
    assert together.isfinite().all() and torch.equal(draw(slice(0, 4)), together)
    assert all(torch.equal(draw(slice(i, i + 1)), together[i : i + 1]) for i in range(4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ClassifierFree(2.0), "null_label must be given for a guidance scale other than 1, got scale 2"),
        (lambda: ClassifierFree(2.0, 1, interval=(0.8, 0.2)), r"interval must be \(low, high\) .* got \(0.8, 0.2\)"),
        (lambda: ClassifierFree(2.0, 1, interval=0.5), r"interval must be \(low, high\) .* got 0.5"),
        (
            lambda: Auto(2.0, network, interval=(0.1, 0.2, 0.3)),
            r"interval must be \(low, high\) .* got \(0.1, 0.2, 0.3\)",
        ),
        (
            lambda: combined(ClassifierFree(math.nan, 10), network, images(0), LABELS),
            "scale must be finite, got nan",
        ),
        (
            lambda: combined(Projected(lambda time: math.inf, 10), network, images(0), LABELS),
            "scale must be finite, got inf",
        ),
        (lambda: PlusPlus(7.5, 10), r"the scale of CFG\+\+ must lie in \[0, 1\], got 7.5"),
        (lambda: ClassifierFree(2.0, 10, rescale=1.5), r"rescale must lie in \[0, 1\], got 1.5"),
        (lambda: Upsample(1.0, 1), "factor must be at least 2, got 1"),
        (
            lambda: combined(Upsample(1.0, 3), network, images(0), LABELS),
            r"factor 3 must divide the height and width of images of shape \[2, 3, 4, 4\]",
        ),
        (
            lambda: combined(Upsample(1.0, 2, PlusPlus(0.5, 10)), network, images(0), LABELS),
            "Upsample works with guidance that leaves the plan's table as it is, which PlusPlus does not",
        ),
        (lambda: Projected(2.0, 10, limit=0.0), "limit must be positive, or None for none, got 0.0"),
        (lambda: ZeroStar(2.0, 10, zero_steps=-1), "zero_steps must be at least 0, got -1"),
        (lambda: DynamicThresholding(Unguided(), 1.5), r"quantile must lie in \[0, 1\], got 1.5"),
        (lambda: DynamicThresholding(Unguided(), most=0.5), "most must be at least 1, got 0.5"),
        (
            lambda: combined(ClassifierFree(torch.ones(3), 10), network, images(0), LABELS),
            r"scale must be a number or \[2\], got a tensor of shape \[3\]",
        ),
    ],
)
def test_what_no_guidance_can_be_is_refused_in_a_sentence(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()

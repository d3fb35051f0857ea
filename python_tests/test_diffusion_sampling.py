"""Sampling: convergence on a distribution whose denoiser is known, independence of the batch, starts and callbacks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    ClassifierFree,
    CosineVP,
    RectifiedFlow,
    Schedule,
    ZeroStar,
    convert,
    plan,
    sample,
)

SPREAD = 0.5  # of the data N(0, SPREAD²) in the exact denoiser
SEEDS = ops.derive_seeds(5, torch.arange(8))
LABELS = torch.arange(8)

every_schedule = pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP()], ids=repr)


def gaussian_model(schedule: Schedule, prediction: str):
    """The optimal network for N(0, SPREAD²): x̂ = α·SPREAD²·x_t/(α²·SPREAD² + σ²), as `prediction`."""

    kind = PREDICTIONS[prediction]

    def model(read: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        x_t = read if kind.input_scale is None else read / kind.input_scale(alpha, sigma)
        denoised = alpha * SPREAD**2 * x_t / (alpha**2 * SPREAD**2 + sigma**2)
        return convert(denoised, x_t, alpha, sigma, "x", prediction)

    return model


def spread_after(schedule: Schedule, prediction: str, steps: int) -> float:
    """The samples' standard deviation over the noise's: the model is linear, so every sample shows it exactly."""
    noise = ops.gaussian(SEEDS, (3,), stream=ops.Purpose.INITIAL_STATE.stream(), dtype=torch.float64)
    images = sample(
        gaussian_model(schedule, prediction),
        plan("euler", schedule, prediction, steps=steps),
        (3,),
        LABELS,
        SEEDS,
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


def test_the_table_of_rectified_flow_is_eulers_method_in_time() -> None:
    """x + (t' − t)·u, step by step, with a network that is not linear."""

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.sin(3 * x_t + t[:, None]) + labels[:, None]

    times = torch.arange(10, -1, -1, dtype=torch.float64) / 10
    x = ops.gaussian(SEEDS, (5,), stream=ops.Purpose.INITIAL_STATE.stream(), dtype=torch.float64)
    for t, following in itertools.pairwise(times):
        x = x + (following - t) * network(x, t.expand(8), LABELS)
    images = sample(
        network, plan("euler", RectifiedFlow(), "velocity", steps=10), (5,), LABELS, SEEDS, dtype=torch.float64
    )
    torch.testing.assert_close(images, x, rtol=1e-12, atol=1e-12)


def test_an_image_depends_on_its_seed_and_label_alone() -> None:
    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        level = (t + labels).view(-1, 1, 1, 1)
        return x_t * level

    def draw(index: slice) -> Tensor:
        return sample(
            network,
            plan("euler-ancestral", CosineVP(), "v", steps=4),
            (3, 5, 7),
            LABELS[index],
            SEEDS[index],
            guidance=ClassifierFree(1.5, 10, rescale=0.3),
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

    steps = plan("euler", RectifiedFlow(), "velocity", steps=3)
    for guidance in (None, ClassifierFree(1.0), ClassifierFree(2.0, 10), ClassifierFree(2.0, 10, interval=(0.5, 0.8))):
        sample(network, steps, (2,), LABELS, SEEDS, guidance=guidance)
    assert batches == [8] * 6 + [16] * 3 + [8, 16, 8]


def test_the_callback_sees_every_step_and_its_denoised_image() -> None:
    seen = []
    images = sample(
        lambda x_t, t, labels: torch.full_like(x_t, 0.25),
        plan("euler", RectifiedFlow(), "x", steps=4),
        (2,),
        LABELS,
        SEEDS,
        callback=lambda step, t, x, denoised: seen.append((step, t, x.shape, denoised.unique().item())),
    )
    assert seen == [(step, 1 - step / 4, (8, 2), 0.25) for step in range(4)]
    torch.testing.assert_close(images, torch.full_like(images, 0.25))


def test_a_bfloat16_network_moves_a_float32_state() -> None:
    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert x_t.dtype == torch.bfloat16 and t.dtype == torch.float32
        return torch.zeros_like(x_t)

    images = sample(
        network, plan("euler", RectifiedFlow(), "velocity", steps=3), (4,), LABELS, SEEDS, dtype=torch.bfloat16
    )
    assert images.dtype == torch.float32
    torch.testing.assert_close(
        images, ops.gaussian(SEEDS, (4,), stream=ops.Purpose.INITIAL_STATE.stream()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++2m", "unipc"])
@every_schedule
def test_rising_times_take_images_along_the_exact_path_to_noise(schedule: Schedule, sampler: str) -> None:
    images = SPREAD * ops.gaussian(SEEDS, (3,), stream=3, dtype=torch.float64)
    model, times = gaussian_model(schedule, "v"), torch.linspace(0.02, 0.98, 400, dtype=torch.float64)
    up = plan(sampler, schedule, "v", times=times)
    high = sample(model, up, (3,), LABELS, SEEDS, initial=(images, 1.0), dtype=torch.float64)
    spread = (schedule.alpha(times[-1]) ** 2 * SPREAD**2 + schedule.sigma(times[-1]) ** 2).sqrt()
    start = (schedule.alpha(times[0]) ** 2 * SPREAD**2 + schedule.sigma(times[0]) ** 2).sqrt()
    exact = images * spread / start
    tolerance = 0.02 if sampler == "euler" else 2e-4
    torch.testing.assert_close(high, exact, rtol=tolerance, atol=0)


def test_initial_images_begin_at_the_first_step_within_their_strength() -> None:
    seen, images = [], torch.full((8, 2), 0.5)
    steps = plan("heun", RectifiedFlow(), "x", steps=4)

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append(round(t[0].item(), 6))
        return images

    result = sample(network, steps, (2,), LABELS, SEEDS, initial=(images, 0.6))
    assert seen == [0.5, 0.25, 0.25]  # a step of two stages, then the one that ends without noise
    torch.testing.assert_close(result, images)
    noise = ops.gaussian(SEEDS, (2,), stream=ops.Purpose.INITIAL_STATE.stream())
    states: list[Tensor] = []
    sample(network, steps, (2,), LABELS, SEEDS, initial=(images, 0.6), callback=lambda i, t, x, d: states.append(x))
    torch.testing.assert_close(states[0], 0.5 * images + 0.5 * noise)
    assert torch.equal(sample(network, steps, (2,), LABELS, SEEDS, initial=(images, 0.0)), images)


def test_the_known_part_is_kept_and_the_network_sees_it_at_its_noise_level() -> None:
    states, known = [], (torch.full((8, 2), 0.5), torch.tensor([1.0, 0.0]))
    result = sample(
        lambda x_t, t, labels: torch.zeros_like(x_t),
        plan("euler", RectifiedFlow(), "x", steps=4),
        (2,),
        LABELS,
        SEEDS,
        known=known,
        callback=lambda step, t, x, denoised: states.append((t, x.clone())),
    )
    noise = ops.gaussian(SEEDS, (2,), stream=ops.Purpose.INITIAL_STATE.stream())
    for t, x in states[1:]:
        torch.testing.assert_close(x[:, 0], (1 - t) * 0.5 + t * noise[:, 0])
    assert torch.equal(result, torch.tensor([[0.5, 0.0]]).expand(8, 2))


@pytest.mark.parametrize("sampler", ["dpm++2m", "dpm++3m", "unipc", "deis", "adams-bashforth", "sa-solver"])
def test_a_start_in_the_middle_has_no_history_but_its_own(sampler: str) -> None:
    """As the plan of the times that are left: earlier denoised images, which it would read, were never made."""
    images, model = torch.full((8, 3), 0.3, dtype=torch.float64), gaussian_model(CosineVP(), "v")
    whole, rest = (plan(sampler, CosineVP(), "v", times=[t / 10 for t in range(first, -1, -1)]) for first in (10, 6))

    def drawn(steps, strength: float) -> Tensor:
        started = (images, strength)
        return sample(model, steps, (3,), LABELS, SEEDS, initial=started, dtype=torch.float64)

    assert torch.equal(drawn(whole, 0.6), drawn(rest, 1.0))


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_known_and_initial_images_have_the_noise_that_churn_raises_the_state_to(sampler: str) -> None:
    images, seen = torch.full((8, 2), 0.5), []
    steps = plan(sampler, RectifiedFlow(), "edm", times=[0.8, 0.6, 0.4, 0.2, 0.0], churn=1.2)
    assert max(steps.times.tolist()) > 0.8

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append((t[0].double(), x_t.clone()))
        return torch.zeros_like(x_t)

    sample(network, steps, (2,), LABELS, SEEDS, initial=(images, 0.7), known=(images, torch.ones(8, 2)))
    noise = ops.gaussian(SEEDS, (2,), stream=ops.Purpose.INITIAL_STATE.stream())
    assert len(seen) == {"euler": 3, "heun": 5}[sampler]
    for t, x in seen[:: 1 if sampler == "euler" else 2]:
        expected = PREDICTIONS["edm"].scale_input((1 - t) * images + t * noise, 1 - t, t)
        torch.testing.assert_close(x, expected.float(), rtol=1e-5, atol=1e-6)


def with_variance(said: float, channels: int = 2):
    """A network for images of so many channels that says the same of the variance everywhere."""

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert x_t.shape[1] == channels
        output = torch.sin(x_t + t.view(-1, 1, 1, 1) + labels.view(-1, 1, 1, 1))
        return torch.cat([output, torch.full_like(output, said)], 1)

    return network


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("scale", [1.0, 3.0, 0.0])
@pytest.mark.parametrize(("said", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_a_learned_variance_lies_between_the_posterior_s_and_the_forward_step_s(
    said: float, variance: str, scale: float, batched: bool
) -> None:
    """Nichol and Dhariwal, 2021, equation 15, at both ends; the other plans leave the network's variance out."""
    guidance = ClassifierFree(scale, 10, batched=batched)
    learned, other = (plan("ddpm", CosineVP(), "v", steps=5, variance=v) for v in ("learned_range", variance))
    drawn = [
        sample(with_variance(said), steps, (2, 3, 4), LABELS, SEEDS, guidance=guidance, dtype=torch.float64)
        for steps in (learned, other)
    ]
    torch.testing.assert_close(*drawn, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batched", [True, False])
def test_under_guidance_the_variance_is_the_conditional_one(batched: bool) -> None:
    steps = plan("ddpm", CosineVP(), "v", steps=4, variance="learned_range")

    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        said = torch.where(labels == 10, 1.0, -1.0).view(-1, 1, 1, 1)
        return torch.cat([x_t, said.to(x_t).expand_as(x_t)], 1)

    def draw(model) -> Tensor:
        return sample(model, steps, (2, 3, 4), LABELS, SEEDS, guidance=ClassifierFree(2.0, 10, batched=batched))

    def always(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([x_t, -torch.ones_like(x_t)], 1)

    assert torch.equal(draw(network), draw(always))


def test_a_model_that_says_no_variance_is_refused_where_the_plan_needs_one() -> None:
    learned = plan("ddpm", RectifiedFlow(), "x", steps=3, variance="learned_range")
    for shape in ((2,), ()):
        with pytest.raises(ValueError, match="this plan for ddpm needs a model that says the noise's variance in a "):
            sample(lambda x_t, t, labels: x_t, learned, shape, LABELS, SEEDS)
    with pytest.raises(ValueError, match="this plan for ddpm needs a model"):  # its first steps call no network
        sample(with_variance(0.0), learned, (2, 3, 4), LABELS, SEEDS, guidance=ZeroStar(2.0, 10))


def test_arguments_that_cannot_be_sampled_with_are_refused_by_name() -> None:
    def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return x_t

    steps = plan("euler", RectifiedFlow(), "x", steps=2)
    with pytest.raises(ValueError, match=r"labels and seeds must both have shape \[B\], got \[7\] and \[8\]"):
        sample(network, steps, (2,), LABELS[:7], SEEDS)
    with pytest.raises(ValueError, match="null_label must be given for a guidance scale other than 1, got scale 2"):
        ClassifierFree(2.0)
    with pytest.raises(ValueError, match=r"interval must be \(low, high\) .* got \(0.8, 0.2\)"):
        ClassifierFree(2.0, 1, interval=(0.8, 0.2))
    with pytest.raises(ValueError, match=r"initial images must have shape \[8, 2\], got \[8, 3\]"):
        sample(network, steps, (2,), LABELS, SEEDS, initial=(torch.zeros(8, 3), 0.5))
    with pytest.raises(ValueError, match=r"strength of the initial images must lie in \[0, 1\], got 1.5"):
        sample(network, steps, (2,), LABELS, SEEDS, initial=(torch.zeros(8, 2), 1.5))
    with pytest.raises(ValueError, match=r"noise must have shape \[8, 2\], got \[8, 3\]"):
        sample(network, steps, (2,), LABELS, SEEDS, noise=torch.zeros(8, 3))
    with pytest.raises(ValueError, match=r"known images and mask must be .* to \[8, 2\], got \[8, 3\] and \[\]"):
        sample(network, steps, (2,), LABELS, SEEDS, known=(torch.zeros(8, 3), torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"guidance must be one, for example ClassifierFree.*, got 3.0"):
        sample(network, steps, (2,), LABELS, SEEDS, guidance=3.0)  # type: ignore[arg-type]


def test_the_known_part_is_kept_where_no_step_is_taken() -> None:
    steps, initial = plan("euler", RectifiedFlow(), "x", steps=2), (torch.zeros(8, 2), 0.0)
    known = torch.full((8, 2), 0.5), torch.tensor([1.0, 0.0])
    result = sample(lambda x_t, t, labels: x_t, steps, (2,), LABELS, SEEDS, initial=initial, known=known)
    assert torch.equal(result, torch.tensor([[0.5, 0.0]]).expand(8, 2))


def test_images_may_be_anything_where_they_are_not_known() -> None:
    steps = plan("euler", RectifiedFlow(), "x", steps=2)
    known = torch.tensor([0.5, torch.nan]), torch.tensor([True, False])
    result = sample(lambda x_t, t, labels: 0 * x_t, steps, (2,), LABELS, SEEDS, known=known)
    assert torch.equal(result, torch.tensor([[0.5, 0.0]]).expand(8, 2))


def test_the_network_sees_the_known_part_from_the_first_step_on() -> None:
    states: list[Tensor] = []
    sample(
        lambda x_t, t, labels: x_t,
        plan("euler", RectifiedFlow(), "x", steps=4),
        (2,),
        LABELS,
        SEEDS,
        initial=(torch.full((8, 2), -1.0), 0.5),
        known=(torch.full((8, 2), 0.5), torch.tensor([1.0, 0.0])),
        callback=lambda step, t, x, denoised: states.append(x),
    )
    noise = ops.gaussian(SEEDS, (2,), stream=ops.Purpose.INITIAL_STATE.stream())
    torch.testing.assert_close(states[0], 0.5 * noise + 0.5 * torch.tensor([0.5, -1.0]))

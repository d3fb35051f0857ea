"""Likelihood: a Gaussian's own density, whatever the schedule, the prediction and the batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    CosineVP,
    LearnedVP,
    RectifiedFlow,
    Schedule,
    convert,
    elbo,
    ends_of_bound,
    likelihood,
)
from visgen_fast.diffusion.embedded_pair import integrate

SPREAD = 0.5
SEEDS = ops.derive_seeds(3, torch.arange(64))
KINDS = [(RectifiedFlow(), kind) for kind in ("x", "v", "velocity", "edm")]
KINDS += [(CosineVP(-30.0, 30.0), kind) for kind in PREDICTIONS]  # its ends are data and noise to 3e-7
BOUNDED = [(RectifiedFlow(), "velocity"), (CosineVP(), "epsilon"), (CosineVP(), "edm")]


def gaussian_model(schedule: Schedule, kind: str):
    """The optimal network for N(mean, SPREAD²) with the label as the mean."""
    prediction = PREDICTIONS[kind]

    def model(read: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        shape = -1, *[1] * (read.dim() - 1)
        alpha, sigma, mean = (some.view(shape) for some in (schedule.alpha(t), schedule.sigma(t), labels.to(t)))
        x_t = read if prediction.input_scale is None else read / prediction.input_scale(alpha, sigma)
        share = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return convert(mean + share * (x_t - alpha * mean), x_t, alpha, sigma, "x", prediction)

    return model


def density(x: Tensor, labels: Tensor) -> Tensor:
    gap = (x - labels.view(-1, *[1] * (x.dim() - 1))) / SPREAD
    return (-0.5 * gap**2 - math.log(SPREAD * math.sqrt(2 * math.pi))).flatten(1).sum(1)


@pytest.mark.parametrize(("schedule", "kind"), KINDS, ids=str)
def test_the_likelihood_of_a_gaussian_is_its_density(schedule: Schedule, kind: str) -> None:
    labels = torch.tensor([0, 0, 1])
    x = labels[:, None, None] + SPREAD * ops.gaussian(SEEDS[:3], (2, 4), dtype=torch.float64)
    x[0] *= 4
    found = likelihood(gaussian_model(schedule, kind), x, labels, SEEDS[:3], schedule=schedule, prediction=kind)
    torch.testing.assert_close(found, density(x, labels), rtol=0, atol=1e-4)


def test_a_float32_network_suffices() -> None:
    seen: list[torch.dtype] = []

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append(x_t.dtype)
        return gaussian_model(CosineVP(), "v")(x_t, t, labels)

    x = SPREAD * ops.gaussian(SEEDS[:3], (6,))
    found = likelihood(model, x, torch.zeros(3), SEEDS[:3], schedule=CosineVP(), prediction="v")
    assert set(seen) == {torch.float32} and found.dtype == torch.float64
    torch.testing.assert_close(found, density(x.double(), torch.zeros(3)), rtol=0, atol=1e-4)


def test_a_likelihood_is_the_same_to_rounding_in_any_batch() -> None:
    """Steps that a batch shares would differ by the tolerance, here 1e-3."""

    def model(x_t: Tensor, t: Tensor, rates: Tensor) -> Tensor:
        return torch.sin(rates[:, None] * x_t)

    x, rates = ops.gaussian(SEEDS[:3], (6,), dtype=torch.float64), torch.tensor([1.0, 5.0, 20.0])
    options = {"schedule": RectifiedFlow(), "prediction": "velocity", "tolerance": 1e-3}
    together = likelihood(model, x, rates, SEEDS[:3], **options)
    for i in range(3):
        one = slice(i, i + 1)
        alone = likelihood(model, x[one], rates[one], SEEDS[one], **options)
        torch.testing.assert_close(alone, together[one], rtol=1e-9, atol=1e-9)


def test_the_trace_is_estimated_without_bias() -> None:
    """A flow that mixes dimensions: x' = M·x takes N(0, I) to a Gaussian whose density is known."""
    mixing = torch.tensor([[0.3, 0.8], [0.5, -0.6]], dtype=torch.float64)
    x = torch.tensor([[0.4, -0.7]], dtype=torch.float64).expand(64, 2)
    options = {"schedule": RectifiedFlow(), "prediction": "velocity", "start": 0.0}
    found = likelihood(lambda x_t, t, labels: x_t @ mixing.T, x, None, SEEDS, **options)
    moved = x[0] @ torch.matrix_exp(mixing).T
    exact = -0.5 * moved.square().sum() - math.log(2 * math.pi) + mixing.trace()
    assert found.std() > 0.5  # e·M·e is one of two values
    assert abs(found.mean() - exact) < 3 * found.std() / 8
    values = found.unique()
    torch.testing.assert_close(torch.stack((values.min(), values.max())).mean(), exact, rtol=0, atol=1e-4)


def test_the_solver_takes_steps_for_each_sample_and_ends_at_what_is_not_finite() -> None:
    rates = torch.tensor([[-1.0], [2.0], [-30.0]], dtype=torch.float64)
    begun = torch.ones(3, 2, dtype=torch.float64)
    found = integrate(lambda t, y: rates * y, begun, 0.0, 1.0, 1e-8)
    torch.testing.assert_close(found, begun * rates.exp(), rtol=1e-6, atol=1e-8)

    def breaks(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((t > 0.5) & (y[:, 0] > 2), torch.nan, 1.0)[:, None].expand(-1, 2)

    broken = integrate(breaks, torch.tensor([[1.8, 0.0], [0.0, 1.0]], dtype=torch.float64), 0.0, 1.0, 1e-5)
    assert broken[0].isnan().all()
    torch.testing.assert_close(broken[1], torch.tensor([1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(("schedule", "kind"), BOUNDED, ids=str)
def test_the_bound_of_a_perfect_model_is_the_density_and_of_another_lies_above(schedule: Schedule, kind: str) -> None:
    seeds, labels = ops.derive_seeds(3, torch.arange(512)), torch.zeros(512)
    x = SPREAD * ops.gaussian(seeds, (3, 4, 4), dtype=torch.float64)
    options = {"schedule": schedule, "prediction": kind, "pixels": False}
    bound = elbo(gaussian_model(schedule, kind), x, labels, seeds, **options)
    gap = bound + density(x, labels) / (48 * math.log(2))
    assert abs(gap.mean()) < 3 * gap.std() / 512**0.5 < 0.04
    worse = elbo(lambda *given: 0.3 + gaussian_model(schedule, kind)(*given), x, labels, seeds, **options)
    assert (worse > bound + 0.1).all()


def test_the_bound_of_pixels_that_the_model_knows_is_their_reconstruction() -> None:
    pixels = torch.randint(0, 256, (4, 1, 5, 5), generator=torch.Generator().manual_seed(0))
    x, labels = pixels.double() / 127.5 - 1, torch.zeros(4)
    values = torch.arange(256) / 127.5 - 1
    for start in (1e-3, 0.01, 0.3):
        options = {"schedule": RectifiedFlow(), "prediction": "x", "span": (start, 1.0), "calls": 3}
        found = elbo(lambda *_: x, x, labels, SEEDS[:4], **options)
        ratio = start / (1 - start)
        noise = ops.gaussian(SEEDS[:4], x.shape[1:], stream=ops.Purpose.LIKELIHOOD.stream(2), dtype=torch.float64)
        scores = -(((x + ratio * noise)[..., None] - values) ** 2) / (2 * ratio**2)
        expected = -scores.log_softmax(-1).gather(-1, pixels[..., None]).mean((1, 2, 3, 4)) / math.log(2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert (expected < 1e-3).all() == (start == 1e-3)


@pytest.mark.parametrize("pixels", [True, False])
def test_the_ends_of_the_bound_are_differentiable_in_where_the_schedule_ends(pixels: bool) -> None:
    values = torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    x = values.double() / 127.5 - 1
    schedule = LearnedVP(-3.0, 8.0, features=4, learn_ends=True).double()

    def terms(ends: Tensor) -> tuple[Tensor, ...]:
        return torch.func.functional_call(schedule, {"ends": ends}, (x, SEEDS[:3]))

    schedule.forward = lambda *given: ends_of_bound(*given, schedule=schedule, pixels=pixels)  # type: ignore[method-assign]
    assert torch.autograd.gradcheck(terms, schedule.ends.detach().clone().requires_grad_())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"span": (0.5, 0.2)}, r"span must be two rising times in \[0, 1\], got \(0.5, 0.2\)"),
        ({"x": torch.zeros(3, 4)}, r"x must be \[2, ...\], a sample of some numbers for each seed, got shape \[3, 4\]"),
    ],
)
def test_ends_of_what_has_none_are_refused_in_a_sentence(changed, said) -> None:
    given = {"x": torch.zeros(2, 4), "seeds": SEEDS[:2], "schedule": CosineVP(), **changed}
    with pytest.raises(ValueError, match=said):
        ends_of_bound(**given)


@pytest.mark.parametrize(
    ("call", "options", "said"),
    [
        (likelihood, {"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        (likelihood, {"start": 1.0}, r"start must lie in \[0, 1\), got 1.0"),
        (likelihood, {"prediction": "epsilon"}, "prediction 'epsilon' cannot be sampled with RectifiedFlow"),
        (elbo, {"calls": 0}, "calls must be at least 1, got 0"),
        (elbo, {"span": (0.5, 0.2)}, r"span must be two rising times in \[0, 1\], with noise at the first, got \(0.5"),
        (elbo, {"span": (0.0, 1.0)}, r"span must be two rising times in \[0, 1\], with noise at the first, got \(0.0"),
    ],
)
def test_what_has_no_likelihood_is_refused_in_a_sentence(call, options, said) -> None:
    options = {"schedule": RectifiedFlow(), "prediction": "v", **options}
    with pytest.raises(ValueError, match=said):
        call(lambda x, t, y: x, torch.zeros(2, 3), torch.zeros(2), SEEDS[:2], **options)

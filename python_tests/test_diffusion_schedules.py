"""Schedules and predictions: constants, inverses, endpoints and conversions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    CosineVP,
    Prediction,
    RectifiedFlow,
    Schedule,
    check_samplable,
    coefficients,
    convert,
    edm,
    to_noise,
    to_x,
)

SCHEDULES = [RectifiedFlow(), CosineVP(), CosineVP(log_snr_min=-10, log_snr_max=12)]
KINDS = list(PREDICTIONS.values())

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def times(count: int = 1001, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0, 1, count, dtype=dtype)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_snr_falls_strictly_and_is_the_ratio_of_alpha_and_sigma(schedule: Schedule, dtype: torch.dtype) -> None:
    t = times(dtype=dtype)
    log_snr = schedule.log_snr(t)
    assert (log_snr.diff() < 0).all()
    inside = slice(1, -1)
    ratio = (schedule.alpha(t).double() / schedule.sigma(t).double()).square().log()
    torch.testing.assert_close(log_snr[inside].double(), ratio[inside], rtol=1e-6, atol=1e-6)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_both_ends(schedule: Schedule, dtype: torch.dtype) -> None:
    t = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr):
        value = function(t)
        assert value.dtype == dtype and value.isfinite().all()
        assert torch.autograd.grad(value.sum(), t)[0].isfinite().all()


@every_schedule
@given(t=st.floats(1e-4, 1 - 1e-4))
def test_time_inverts_log_snr(schedule: Schedule, t: float) -> None:
    time = torch.tensor([[t]], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(time)), time, rtol=1e-9, atol=1e-12)


@every_schedule
def test_derivatives_in_time_are_right(schedule: Schedule) -> None:
    t = times(7)[1:-1].requires_grad_()
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr):
        torch.autograd.gradcheck(function, t)
    torch.autograd.gradcheck(schedule.time, torch.tensor([-6.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True))


def test_rectified_flow_is_the_straight_path() -> None:
    t = times()
    assert torch.equal(RectifiedFlow().alpha(t), 1 - t) and torch.equal(RectifiedFlow().sigma(t), t)
    assert RectifiedFlow().log_snr(torch.tensor(0.25)).item() == pytest.approx(2 * math.log(3))


def test_cosine_schedule_has_the_published_form_and_ends() -> None:
    schedule, t = CosineVP(), times()
    a, b = math.atan(math.exp(-7.5)), math.atan(math.exp(7.5))
    torch.testing.assert_close(schedule.log_snr(t), -2 * torch.tan(a + t * (b - a)).log(), rtol=0, atol=1e-9)
    torch.testing.assert_close(schedule.alpha(t) ** 2, torch.sigmoid(schedule.log_snr(t)), rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.sigma(t) ** 2, torch.sigmoid(-schedule.log_snr(t)), rtol=1e-9, atol=0)
    ends = schedule.log_snr(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([15.0, -15.0]), rtol=1e-6, atol=0)


@every_schedule
def test_float32_levels_keep_their_relative_precision_at_the_ends(schedule: Schedule) -> None:
    t = torch.tensor([1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 2**-20])
    for function in (schedule.alpha, schedule.sigma):
        torch.testing.assert_close(function(t).double(), function(t.double()), rtol=5e-7, atol=0)


def test_density_of_log_snr_under_uniform_times_is_the_hyperbolic_secant_of_the_cosine_schedule() -> None:
    seeds = ops.derive_seeds(3, torch.arange(4096))
    log_snr = CosineVP().log_snr(ops.uniform(seeds, (1,))[:, 0].double()).sort().values
    # p(λ) = sech(λ/2)/2π, of which this is the integral; the ends cut off at ±15 hold less than a thousandth.
    expected = 2 / math.pi * torch.atan(torch.exp(log_snr / 2))
    empirical = torch.arange(1, 4097, dtype=torch.float64) / 4096
    assert (expected - empirical).abs().max() < 1.63 / math.sqrt(4096)  # Kolmogorov–Smirnov at 1%


def test_bounds_in_the_wrong_order_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="log_snr_min must be smaller than log_snr_max"):
        CosineVP(log_snr_min=3, log_snr_max=3)


@every_schedule
@pytest.mark.parametrize("prediction", KINDS)
def test_coefficients_are_float32_rows_of_any_shape_that_define_the_target(
    schedule: Schedule, prediction: Prediction
) -> None:
    t = torch.tensor([[0.1, 0.5, 0.9], [0.0, 1.0, 0.3]])
    rows = coefficients(schedule, prediction, t)
    assert rows.dtype == torch.float32 and rows.shape == (2, 3, 4)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    norm = (sigma**2 + 0.25 * alpha**2).sqrt()
    expected = {
        "x": (1 + 0 * t, 0 * t),
        "epsilon": (0 * t, 1 + 0 * t),
        "v": (-sigma, alpha),
        "velocity": (-1 + 0 * t, 1 + 0 * t),
        "edm": (sigma / (0.5 * norm), -0.5 * alpha / norm),
    }[prediction.name]
    read = (alpha / norm, sigma / norm) if prediction.name == "edm" else (alpha, sigma)
    rounding = 1e-6 if prediction.name == "edm" else 0
    torch.testing.assert_close(rows, torch.stack((*read, *expected), -1), rtol=rounding, atol=0)


def test_velocity_is_the_time_derivative_of_rectified_flow() -> None:
    rows = coefficients(RectifiedFlow(), "velocity", times(5, torch.float32))
    alpha, sigma = (
        torch.func.vmap(torch.func.grad(function))(times(5, torch.float32))
        for function in (RectifiedFlow().alpha, RectifiedFlow().sigma)
    )
    assert torch.equal(rows[:, 2:], torch.stack((alpha, sigma), -1))


def test_gradients_flow_through_coefficients_into_a_learned_schedule() -> None:
    class Powered(torch.nn.Module, Schedule):
        def __init__(self) -> None:
            super().__init__()
            self.power = torch.nn.Parameter(torch.tensor(1.5))

        def alpha(self, t: Tensor) -> Tensor:
            return 1 - t**self.power

        def sigma(self, t: Tensor) -> Tensor:
            return t**self.power

        def time(self, log_snr: Tensor) -> Tensor:
            return torch.sigmoid(-log_snr / 2) ** (1 / self.power)

    schedule, t = Powered(), torch.tensor([0.3, 0.6])
    x, noise = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])
    x_t, target = ops.diffuse(x, coefficients(schedule, "v", t), noise=noise)
    (gradient,) = torch.autograd.grad(x_t.sum() + target.sum(), schedule.power)
    slope = (t**1.5 * t.log())[:, None]  # d t^p / dp
    torch.testing.assert_close(gradient, (slope * (-x + noise) + slope * (-noise - x)).sum())


levels = st.floats(-20, 20).map(lambda value: torch.tensor([value], dtype=torch.float64))
signals = st.floats(-3, 3).map(lambda value: torch.tensor([[value]], dtype=torch.float64))


@given(log_snr=levels, x=signals, noise=signals)
@pytest.mark.parametrize("variance_preserving", [True, False], ids=["vp", "rf"])
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_every_conversion_recovers_the_target_and_returns(
    log_snr: Tensor, x: Tensor, noise: Tensor, variance_preserving: bool, source: Prediction, target: Prediction
) -> None:
    if variance_preserving:
        alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
    else:
        alpha, sigma = torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2)
    x_t = alpha[:, None] * x + sigma[:, None] * noise
    kinds = {"x": x, "epsilon": noise, "v": alpha * noise - sigma * x, "velocity": noise - x}
    norm = (sigma**2 + 0.25 * alpha**2).sqrt()
    kinds["edm"] = sigma / (0.5 * norm) * x - 0.5 * alpha / norm * noise
    converted = convert(kinds[source.name], x_t, alpha, sigma, source, target)
    # A level of e^-10 is divided by: at most about e^10·2^-53·10 is lost.
    torch.testing.assert_close(converted, kinds[target.name], rtol=1e-9, atol=1e-9)
    returned = convert(converted, x_t, alpha, sigma, target, source)
    torch.testing.assert_close(returned, kinds[source.name], rtol=1e-8, atol=1e-8)


@given(
    value=st.floats(-1e6, 1e6, width=32),
    x_t=st.floats(-1e6, 1e6, width=32),
    t=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32)),
)
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_conversions_are_finite_at_every_time_whatever_the_network_says(
    value: float, x_t: float, t: float, source: Prediction, target: Prediction
) -> None:
    for schedule in SCHEDULES:
        time = torch.tensor([t])
        result = convert(
            torch.tensor([[value]]), torch.tensor([[x_t]]), schedule.alpha(time), schedule.sigma(time), source, target
        )
        assert result.isfinite().all()


@given(t=st.floats(0.02, 0.98), x=st.floats(-1, 1), error=st.floats(0.01, 1))
def test_squared_errors_of_the_predictions_are_related_as_published(t: float, x: float, error: float) -> None:
    """ε-MSE = SNR·x-MSE; v-MSE = (1 + SNR)·x-MSE for VP; u-MSE = x-MSE/t² for rectified flow."""
    time = torch.tensor([t], dtype=torch.float64)
    image, x_t = torch.tensor([[x]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64)

    def squared_error(schedule: Schedule, kind: str) -> float:
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        right, wrong = (convert(value, x_t, alpha, sigma, "x", kind) for value in (image, image + error))
        return (wrong - right).square().item()

    for schedule in SCHEDULES:
        snr = schedule.log_snr(time).exp().item()
        assert squared_error(schedule, "epsilon") == pytest.approx(snr * error**2)
    snr = CosineVP().log_snr(time).exp().item()
    assert squared_error(CosineVP(), "v") == pytest.approx((1 + snr) * error**2)
    assert squared_error(RectifiedFlow(), "velocity") == pytest.approx(error**2 / t**2)


@pytest.mark.parametrize("prediction", KINDS)
def test_levels_may_belong_to_samples_or_to_tokens(prediction: Prediction) -> None:
    generator = torch.Generator().manual_seed(0)
    value, x_t = torch.randn(2, 3, 4, 5, 2, generator=generator).unbind(-1)
    t = torch.rand(2, 1, 4, 1, generator=generator)
    alpha, sigma = CosineVP().alpha(t), CosineVP().sigma(t)
    for function in (to_x, to_noise):
        tokens = function(value, x_t, alpha, sigma, prediction)
        rows = [
            function(value[:, :, i], x_t[:, :, i], alpha[:, 0, i, 0], sigma[:, 0, i, 0], prediction) for i in range(4)
        ]
        torch.testing.assert_close(tokens, torch.stack(rows, 2), rtol=0, atol=0)


def test_conversions_of_half_precision_predictions_are_computed_in_float32() -> None:
    value, x_t = torch.tensor([[1.5]], dtype=torch.bfloat16), torch.tensor([[0.1234567]])
    alpha, sigma = torch.tensor([0.6]), torch.tensor([0.8])
    result = to_x(value, x_t, alpha, sigma, "v")
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, 0.6 * x_t - 0.8 * 1.5, rtol=1e-6, atol=1e-6)


def test_an_unknown_prediction_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match="prediction must be one of x, epsilon, v, velocity, edm; got 'score'"):
        coefficients(RectifiedFlow(), "score", torch.tensor([0.5]))


def test_noise_prediction_is_refused_for_sampling_only_where_the_signal_reaches_zero() -> None:
    with pytest.raises(ValueError, match="'epsilon' cannot be sampled with RectifiedFlow"):
        check_samplable(RectifiedFlow(), "epsilon")
    check_samplable(CosineVP(), "epsilon")
    for prediction in ("x", "v", "velocity", "edm"):
        check_samplable(RectifiedFlow(), prediction)


@given(noise_level=st.floats(0.002, 80), clean=st.floats(-2, 2), noise=st.floats(-3, 3), raw=st.floats(-3, 3))
@pytest.mark.parametrize("data_std", [0.5, 1.3])
def test_edm_is_the_published_preconditioning(noise_level, clean, noise, raw, data_std) -> None:
    """Karras et al., 2022, table 1: D(x; σ) = c_skip·x + c_out·F(c_in·x), so F learns (y − c_skip·x)/c_out."""
    sigma, one = torch.tensor([noise_level], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    y, n, f = (torch.tensor([[value]], dtype=torch.float64) for value in (clean, noise, raw))
    total = sigma**2 + data_std**2
    c_skip, c_out, c_in = data_std**2 / total, sigma * data_std / total.sqrt(), 1 / total.sqrt()
    kind, x_t = edm(data_std), y + sigma * n
    c, d = kind.weights(one, sigma)
    torch.testing.assert_close(c * y + d * n, (y - c_skip * x_t) / c_out, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(kind.scale_input(x_t, one, sigma), c_in * x_t)
    torch.testing.assert_close(to_x(f, x_t, one, sigma, kind), c_skip * x_t + c_out * f, rtol=1e-9, atol=1e-9)


def test_a_prediction_of_one_s_own_is_used_like_a_named_one() -> None:
    score = Prediction("score", lambda alpha, sigma: (torch.zeros_like(alpha), -1 / sigma))
    t, x, noise = torch.tensor([0.3]), torch.tensor([[0.7]]), torch.tensor([[-1.1]])
    alpha, sigma = CosineVP().alpha(t), CosineVP().sigma(t)
    x_t, target = ops.diffuse(x, coefficients(CosineVP(), score, t), noise=noise)
    torch.testing.assert_close(target, -noise / sigma)
    torch.testing.assert_close(to_x(target, x_t, alpha, sigma, score), x)
    torch.testing.assert_close(convert(target, x_t, alpha, sigma, score, "epsilon"), noise)


def test_edm_refuses_data_without_spread_by_name() -> None:
    with pytest.raises(ValueError, match="data_std must be positive, got 0"):
        edm(0)

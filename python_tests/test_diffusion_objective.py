"""The objective: its ends, its mean with exact denoisers, its spaces, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from objectives import SEEDS, TIMES, WEIGHTS, every_prediction, every_schedule, objectives
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    ELBO,
    P2,
    AdaptiveTimes,
    Cauchy,
    CosineVP,
    DiffusionObjective,
    DiscreteTimes,
    DiscreteVP,
    EDMMonotonic,
    EDMWeight,
    KarrasVE,
    LearnedVP,
    LevelTimes,
    LogitNormalTimes,
    LowDiscrepancyTimes,
    MinSNR,
    ModeTimes,
    Normal,
    RectifiedFlow,
    Schedule,
    Sigmoid,
    SoftMinSNR,
    TimeSampling,
    Uncertainty,
    UniformTimes,
    Weight,
    convert,
    edm,
)


class Fixed(TimeSampling):
    """Both ends, and a time between."""

    def __call__(self, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.4])

    def quantile(self, share: Tensor) -> Tensor:
        return share

    def cdf(self, t: Tensor) -> Tensor:
        return t

    def density(self, t: Tensor) -> Tensor:
        return torch.where((t == 0) | (t == 1), 0.0, 1.0)


@every_schedule
@pytest.mark.parametrize("loss", [None, "x", "epsilon", "v", "velocity"])
def test_levels_without_signal_or_without_noise_give_finite_losses_and_gradients(
    schedule: Schedule, loss: str | None
) -> None:
    x, seeds = torch.linspace(-1, 1, 12).view(3, 1, 2, 2), SEEDS[:3]
    for objective in objectives(schedule, Fixed()):
        weight, kind = objective.weight, objective.prediction
        if loss is not None:
            if weight is not None:
                continue
            objective = DiffusionObjective(schedule, kind, Fixed(), loss=loss)
        factor = torch.ones((), requires_grad=True)
        for exact in (False, True):

            def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
                assert x_t.isfinite().all()
                c, d = (level.view(3, 1, 1, 1) for level in kind.weights(schedule.alpha(t), schedule.sigma(t)))  # noqa: B023
                return factor * (c * x + d * ops.gaussian(seeds, x.shape[1:]) if exact else x_t)  # noqa: B023

            losses = objective(model, x, torch.zeros(3), seeds)
            gradients = torch.autograd.grad(losses.sum(), [factor, *objective.parameters()], allow_unused=True)
            assert losses.isfinite().all()
            assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def analytic_mean(objective: DiffusionObjective, std: float) -> float:
    """The objective of the exact denoiser of N(0, std²), by quadrature over the shares of its times."""
    t = objective.times.quantile((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    alpha, sigma = objective.schedule.alpha(t), objective.schedule.sigma(t)
    of_x = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    c, d = objective.prediction.weights(alpha, sigma)
    squared = of_x * ((alpha * d - sigma * c) / sigma) ** 2
    # Windows of s×s average s² independent errors; those of the normal have a mean size of √(2/π).
    scales = sum(1 / s**2 for s in objective.scales) / len(objective.scales)
    error = squared * scales if objective.penalty == "l2" else squared.sqrt() * math.sqrt(2 / math.pi)
    return (objective.sample_weights(t) * error).mean().item()


@pytest.mark.parametrize("schedule", [RectifiedFlow(), CosineVP(), KarrasVE(), DiscreteVP.cosine()], ids=repr)
@every_prediction
@pytest.mark.parametrize(
    "options",
    [*({"weight": weight} for weight in WEIGHTS[:9]), {"loss": "velocity"}, {"scales": (1, 4)}, {"penalty": "l1"}],
    ids=repr,
)
def test_the_mean_of_the_exact_denoiser_of_gaussian_data_is_the_analytic_one(schedule, prediction, options) -> None:
    weight = options.get("weight")
    if prediction == "epsilon" and schedule.zero_terminal_snr:
        return  # which is refused
    if weight == ELBO() and schedule.sigma(torch.zeros(())) == 0:
        return  # every level counts 1, up to λ = ∞
    std, shape = 0.6, (1, 8, 8)
    # What is divided by p(λ) needs tails that are not thinner than it.
    divides = weight is not None and weight.divides
    times = LevelTimes(schedule, Cauchy(0, 3)) if divides else LogitNormalTimes(0.2, 0.7)
    objective = DiffusionObjective(schedule, prediction, LowDiscrepancyTimes(times), **options)
    x = std * ops.gaussian(SEEDS, shape, stream=ops.Purpose.LABEL.stream())

    def denoiser(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None, None].double() for level in (schedule.alpha(t), schedule.sigma(t)))
        scale = objective.prediction.scale_input(torch.ones_like(alpha), alpha, sigma)
        state = x_t.double() / scale
        x_hat = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * state
        return convert(x_hat, state, alpha, sigma, "x", prediction)

    losses = objective(denoiser, x, torch.zeros(len(x)), SEEDS, torch.arange(len(x))).double()
    spread = losses.std().item() / math.sqrt(len(losses))
    expected = analytic_mean(objective, std)
    assert losses.mean().item() == pytest.approx(expected, abs=4 * spread + 1e-5 * expected)
    assert spread < 0.05 * expected


def test_jit_is_x_prediction_with_the_loss_of_the_velocity_and_a_floor() -> None:
    objective = DiffusionObjective(
        RectifiedFlow(), "x", LogitNormalTimes(0.8, 0.8), loss="velocity", smallest_time=0.05
    )
    t = torch.linspace(0, 1, 21)
    torch.testing.assert_close(objective.sample_weights(t), 1 / t.clamp_min(0.05) ** 2)
    absolute = DiffusionObjective(RectifiedFlow(), "x", UniformTimes(), loss="velocity", penalty="l1")
    torch.testing.assert_close(absolute.sample_weights(t[1:]), 1 / t[1:])


def test_edm_counts_its_networks_output_as_it_is() -> None:
    times = LevelTimes(KarrasVE(), Normal(2.4, 2.4))
    t = times(SEEDS)
    sigma = KarrasVE().sigma(t).double().log()
    cut = (math.log(0.002) + 1.2) / 1.2, (math.log(80) + 1.2) / 1.2
    assert sigma.mean().item() == pytest.approx(-1.2, abs=0.08) and sigma.std().item() == pytest.approx(1.2, abs=0.06)
    assert cut[0] < -4 and cut[1] > 4
    weights = DiffusionObjective(KarrasVE(), edm(0.5), times, weight=EDMWeight()).sample_weights(t)
    torch.testing.assert_close(weights, torch.ones_like(t), rtol=1e-5, atol=0)


def test_a_learned_schedule_is_trained_through_the_objective() -> None:
    torch.manual_seed(0)
    schedule = LearnedVP(-10, 6, features=8)
    objective = DiffusionObjective(schedule, "epsilon", UniformTimes(), weight=ELBO())
    x = torch.linspace(-1, 1, 64 * 4).view(64, 1, 2, 2)
    losses = objective(lambda x_t, t, labels: 0.5 * x_t, x, torch.zeros(64), SEEDS[:64])
    gradients = torch.autograd.grad(losses.mean(), list(objective.parameters()))
    assert len(gradients) == 4 and all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)
    step = 1e-3
    direction = [torch.randn_like(p) for p in schedule.parameters()]
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(schedule.parameters(), direction, strict=True):
                p.add_(d, alpha=sign * step)
            values.append(objective(lambda x_t, t, labels: 0.5 * x_t, x.double(), torch.zeros(64), SEEDS[:64]).mean())
            for p, d in zip(schedule.parameters(), direction, strict=True):
                p.sub_(d, alpha=sign * step)
    assert slope == pytest.approx((values[0] - values[1]).item() / (2 * step), rel=0.05)


def test_what_is_learned_is_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    schedule, weight, t = LearnedVP(features=64), Uncertainty(), torch.linspace(0, 1, 50)
    with torch.no_grad():
        weight.linear.normal_()
    objective = DiffusionObjective(schedule, "v", LevelTimes(schedule, Normal()), weight=weight)
    expected = [schedule.log_snr(t), schedule.slope(t), weight.offset(schedule.log_snr(t)), objective.sample_weights(t)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            schedule.log_snr(t),
            schedule.slope(t),
            weight.offset(schedule.log_snr(t)),
            objective.sample_weights(t),
        ]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_network_may_be_told_the_level() -> None:
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes(), conditioning="log_snr")
    told: list[Tensor] = []

    def model(x_t: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        told.append(level)
        return x_t

    x = torch.zeros(len(SEEDS), 1)
    objective(model, x, torch.zeros(len(SEEDS)), SEEDS)
    t = UniformTimes()(SEEDS)
    assert torch.equal(told[0], CosineVP().log_snr(t))
    objective.network(model)(x, t, None)
    assert torch.equal(told[1], told[0])


@pytest.mark.parametrize(
    ("weight", "times"),
    [(MinSNR(), "levels"), (ELBO(), "adaptive"), (Uncertainty(Sigmoid()), "low discrepancy")],
    ids=repr,
)
def test_weights_compile_without_graph_breaks_to_the_same_loss(weight: Weight, times: str) -> None:
    objective = DiffusionObjective(CosineVP(), "v", TIMES[times](CosineVP()), weight=weight).eval()

    def loss(x: Tensor, seeds: Tensor) -> Tensor:
        return objective(lambda x_t, t, labels: x_t * t[:, None], x, seeds, seeds, torch.arange(8))

    x = torch.linspace(-1, 1, 32).view(8, 4)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, SEEDS[:8]), loss(x, SEEDS[:8]), rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MinSNR(0), "gamma must be positive and finite, got 0"),
        (lambda: SoftMinSNR(-1), "gamma must be positive and finite, got -1"),
        (lambda: P2(k=0), "k must be positive and finite, got 0"),
        (lambda: EDMWeight(0), "data_std must be positive and finite, got 0"),
        (lambda: EDMMonotonic(std=0), "std must be positive and finite, got 0"),
        (lambda: Sigmoid(math.inf), "bias must be finite, got inf"),
        (lambda: Uncertainty(Uncertainty()), "weight must be one without an uncertainty of its own"),
        (lambda: Uncertainty(features=0), "features must be at least 1, got 0"),
        (lambda: ModeTimes(2), r"scale must lie in \[-1, 1.7519\], got 2"),
        (lambda: DiscreteTimes(0), "steps must be at least 1, got 0"),
        (lambda: AdaptiveTimes(DiscreteTimes()), "times must be continuous, with a density of their own"),
        (lambda: AdaptiveTimes(UniformTimes(), bins=1), "bins must be at least 2, got 1"),
        (lambda: AdaptiveTimes(UniformTimes(), decay=1), r"decay must lie in \(0, 1\), got 1"),
        (
            lambda: DiffusionObjective(DiscreteVP.linear().with_zero_terminal_snr(), "epsilon", UniformTimes()),
            "prediction 'epsilon' says nothing of the image at t = 1, where DiscreteVP.* leaves none of it",
        ),
        (
            lambda: DiffusionObjective(CosineVP(), "v", UniformTimes(), loss="x", penalty="pseudo_huber"),
            "penalty pseudo_huber must be of the network's own error, in v: in x its scale would differ",
        ),
        (
            lambda: DiffusionObjective(CosineVP(), "v", UniformTimes(), smallest_time=1),
            r"smallest_time must lie in \[0, 1\), got 1",
        ),
        (
            lambda: DiffusionObjective(CosineVP(), "v", UniformTimes(), conditioning="sigma"),
            "conditioning must be time or log_snr, got 'sigma'",
        ),
        (lambda: DiffusionObjective(CosineVP(), "v", UniformTimes(), loss="noise"), "prediction must be one of"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()

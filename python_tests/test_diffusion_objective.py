"""Weights, times and the objective: what each level counts, against drawn times and against exact denoisers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    ELBO,
    P2,
    PREDICTIONS,
    AdaptiveTimes,
    Cauchy,
    CosineVP,
    CosMapTimes,
    DiffusionObjective,
    DiscreteTimes,
    DiscreteVP,
    EDMMonotonic,
    EDMWeight,
    FromDensity,
    Interpolated,
    KarrasVE,
    Laplace,
    LearnedVP,
    LevelTimes,
    LogitNormalTimes,
    LowDiscrepancyTimes,
    MinSNR,
    ModeTimes,
    Normal,
    RectifiedFlow,
    Schedule,
    Shifted,
    Sigmoid,
    SigmoidVP,
    SoftMinSNR,
    Table,
    TimeSampling,
    TruncatedSNR,
    Uncertainty,
    UniformTimes,
    Weight,
    convert,
    edm,
)

SEEDS = ops.derive_seeds(5, torch.arange(4096))
torch.manual_seed(0)
SCHEDULES: list[Schedule] = [
    *(RectifiedFlow(), CosineVP(), SigmoidVP(), KarrasVE(), DiscreteVP.linear(), DiscreteVP.cosine()),
    *(DiscreteVP.linear().with_zero_terminal_snr(), Table([0, 0.45, 1], [9, 0.3, -14]), LearnedVP(features=16)),
    *(FromDensity(Laplace()), FromDensity(Cauchy()), Shifted(RectifiedFlow(), 1, 3)),
    *(Shifted(CosineVP(), 16, 64, ends="keep"), Interpolated(CosineVP(), 32, 256, 512)),
]
WEIGHTS: list[Weight | None] = [
    *(None, MinSNR(), SoftMinSNR(), P2(), TruncatedSNR(), EDMWeight(), Sigmoid(), EDMMonotonic(), ELBO()),
    *(Uncertainty(), Uncertainty(ELBO())),
]


def learned_times(schedule: Schedule) -> AdaptiveTimes:
    times = AdaptiveTimes(LogitNormalTimes(), bins=7)
    t = times.quantile(torch.linspace(0.001, 0.999, 500))
    times.observe(t, (1 - t) ** 2 + 0.1)
    times.after_step()
    return times


TIMES = {
    "uniform": lambda schedule: UniformTimes(),
    "logit-normal": lambda schedule: LogitNormalTimes(0.3, 0.8),
    "mode": lambda schedule: ModeTimes(),
    "ends": lambda schedule: ModeTimes(-0.6),
    "cosmap": lambda schedule: CosMapTimes(),
    "discrete": lambda schedule: DiscreteTimes(4000),
    "levels": lambda schedule: LevelTimes(schedule, Normal(0.5, 2.4)),
    "low discrepancy": lambda schedule: LowDiscrepancyTimes(CosMapTimes()),
    "adaptive": learned_times,
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_times = pytest.mark.parametrize("times", TIMES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def objectives(schedule: Schedule, times: TimeSampling):
    """The objective of every prediction with every weight; those that are refused are ε without a signal."""
    for prediction in PREDICTIONS:
        if prediction == "epsilon" and schedule.zero_terminal_snr:
            continue
        for weight in WEIGHTS:
            yield DiffusionObjective(schedule, prediction, times, weight=weight)


def of_epsilon(objective: DiffusionObjective, t: Tensor) -> Tensor:
    """The squared error of the network's output for an error of 1 in ε, found by converting both."""
    alpha, sigma = objective.schedule.alpha(t), objective.schedule.sigma(t)
    noise, x_t = torch.zeros_like(t)[:, None], torch.zeros_like(t)[:, None]
    right, wrong = (convert(e, x_t, alpha, sigma, "epsilon", objective.prediction) for e in (noise, noise + 1))
    return (wrong - right).square().squeeze(1)


@every_schedule
@every_times
def test_the_implied_weight_is_a_histogram_of_drawn_times_by_their_weights(schedule: Schedule, times: str) -> None:
    count, bins, parts = 4000, 6, 40
    sampling = TIMES[times](schedule)
    drawn = sampling.quantile((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    log_snr = schedule.log_snr(drawn)
    # Between the levels of 3% and 97%: outside, a few draws stand for densities that differ by orders of magnitude.
    low, high = log_snr.quantile(0.03).item(), log_snr.quantile(0.97).item()
    low, high = max(low, -16.0), min(high, 16.0)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    place = torch.bucketize(log_snr, edges) - 1
    inside = (place >= 0) & (place < bins)
    grid = low + (high - low) * (torch.arange(bins * parts, dtype=torch.float64) + 0.5) / (bins * parts)
    for objective in objectives(schedule, sampling):
        counted = objective.sample_weights(drawn).detach() * of_epsilon(objective, drawn) / count
        histogram = torch.zeros(bins, dtype=torch.float64).index_add_(0, place[inside], counted[inside])
        integral = objective.implied_weight(grid).view(bins, parts).mean(1) * (high - low) / bins
        torch.testing.assert_close(histogram, integral, rtol=0.03, atol=1e-3 * integral.max().item())


@every_schedule
@every_times
def test_drawn_times_have_the_density_and_the_cdf_that_they_say(schedule: Schedule, times: str) -> None:
    sampling = TIMES[times](schedule)
    positions = torch.arange(len(SEEDS))
    t = sampling(SEEDS, positions)
    assert t.dtype == torch.float32 and (t >= 0).all() and (t <= 1).all()
    assert torch.equal(sampling(SEEDS[17:19], positions[17:19]), t[17:19])
    ordered = t.double().sort().values
    empirical = torch.arange(1, len(t) + 1, dtype=torch.float64) / len(t)
    assert (sampling.cdf(ordered) - empirical).abs().max() < 1.63 / math.sqrt(len(t))  # Kolmogorov–Smirnov at 1%
    edges = sampling.quantile(torch.linspace(0.05, 0.95, 10, dtype=torch.float64))
    grid = edges[:-1, None] + edges.diff()[:, None] * (torch.arange(400) + 0.5) / 400
    torch.testing.assert_close(
        sampling.density(grid).mean(1) * edges.diff(), torch.full((9,), 0.1).double(), rtol=0.02, atol=0
    )
    shares = torch.tensor([[0.0, 0.2], [0.7, 1.0]], dtype=torch.float64)
    ends = sampling.quantile(shares)
    assert ends.shape == (2, 2) and ends.isfinite().all() and sampling.density(ends).isfinite().all()
    if times != "discrete":
        torch.testing.assert_close(sampling.cdf(ends), shares, rtol=0, atol=1e-6)


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


# The published weights, by the prediction whose squared error they multiply.


def published(weight: Weight, kind: str, snr: np.ndarray) -> np.ndarray:
    sigma = snr**-0.5
    return {
        MinSNR: {
            "x": np.minimum(snr, 5),
            "epsilon": np.minimum(snr, 5) / snr,
            "v": np.minimum(snr, 5) / (snr + 1),
        },
        SoftMinSNR: {"x": 1 / (sigma**2 + 0.25), "edm": (sigma * 0.5 / (sigma**2 + 0.25)) ** 2},
        P2: {"epsilon": 1 / (1 + snr)},
        TruncatedSNR: {"x": np.maximum(snr, 1)},
        EDMWeight: {"x": (sigma**2 + 0.25) / (sigma * 0.5) ** 2, "edm": np.ones_like(snr)},
    }[type(weight)].get(kind)


@every_prediction
@pytest.mark.parametrize("weight", [MinSNR(), SoftMinSNR(), P2(), TruncatedSNR(), EDMWeight()], ids=repr)
def test_weights_are_the_published_ones_in_each_space(prediction: str, weight: Weight) -> None:
    schedule = CosineVP()
    t = torch.linspace(0.001, 0.999, 201, dtype=torch.float64)
    found = DiffusionObjective(schedule, prediction, UniformTimes(), weight=weight).sample_weights(t).numpy()
    expected = published(weight, prediction, schedule.log_snr(t).exp().numpy())
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_divided_weights_are_vdms_and_edms() -> None:
    """½·E[w(λ)·(−dλ/dt)·‖ε − ε̂‖²] under uniform times; EDM's peak is held."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    log_snr = CosineVP().log_snr(t).numpy()
    a, span = math.atan(math.exp(-7.5)), math.atan(math.exp(7.5)) - math.atan(math.exp(-7.5))
    fall = 4 * span / np.sin(2 * (a + t.numpy() * span))
    for weight, w in ((ELBO(), 1.0), (Sigmoid(-1.0), 1 / (1 + np.exp(log_snr + 1)))):
        objective = DiffusionObjective(CosineVP(), "epsilon", UniformTimes(), weight=weight)
        np.testing.assert_allclose(objective.sample_weights(t).numpy(), fall * w, rtol=1e-9)
    grid = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    of_edm = np.exp(-((grid.numpy() - 2.4) ** 2) / (2 * 2.4**2)) * (np.exp(-grid.numpy()) + 0.25)
    held = np.where(grid.numpy() < grid.numpy()[of_edm.argmax()], of_edm.max(), of_edm) / of_edm.max()
    np.testing.assert_allclose(EDMMonotonic().log(grid).exp().numpy(), held, rtol=1e-5)


MONOTONE = {
    "v, cosine": (CosineVP(), "v", UniformTimes(), None, True),
    "velocity, uniform": (RectifiedFlow(), "velocity", UniformTimes(), None, True),
    "ELBO": (CosineVP(), "epsilon", LogitNormalTimes(), ELBO(), True),
    "sigmoid": (RectifiedFlow(), "x", UniformTimes(), Sigmoid(), True),
    "EDM-monotonic": (KarrasVE(), "edm", LevelTimes(KarrasVE(), Normal(2.4, 2.4)), EDMMonotonic(), True),
    "ELBO, adaptive": (CosineVP(), "v", learned_times(CosineVP()), ELBO(), True),
    "ELBO, discrete": (DiscreteVP.linear(), "epsilon", DiscreteTimes(), ELBO(), True),
    "epsilon, cosine": (CosineVP(), "epsilon", UniformTimes(), None, False),
    "velocity, logit-normal": (RectifiedFlow(), "velocity", LogitNormalTimes(), None, False),
    "EDM": (KarrasVE(), "edm", LevelTimes(KarrasVE(), Normal(2.4, 2.4)), None, False),
    "Min-SNR, cosine": (CosineVP(), "v", UniformTimes(), MinSNR(), False),
}


@pytest.mark.parametrize("name", MONOTONE)
def test_which_objectives_are_maximum_likelihood(name: str) -> None:
    schedule, prediction, times, weight, expected = MONOTONE[name]
    assert DiffusionObjective(schedule, prediction, times, weight=weight).is_monotone() is expected


def test_known_implied_weights_are_found() -> None:
    log_snr = torch.linspace(-9, 9, 91, dtype=torch.float64)
    half = torch.exp(-log_snr / 2)
    normal = torch.exp(-((log_snr + 1.6) ** 2) / (2 * 1.6**2))
    known = {
        "epsilon, cosine": (DiffusionObjective(CosineVP(), "epsilon", UniformTimes()), 1 / torch.cosh(log_snr / 2)),
        "v, cosine": (DiffusionObjective(CosineVP(), "v", UniformTimes()), half),
        "velocity, uniform": (DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes()), half),
        "JiT": (
            DiffusionObjective(RectifiedFlow(), "x", LogitNormalTimes(0.8, 0.8), loss="velocity"),
            normal * (1 + half) ** 2,
        ),
        "EDM": (
            DiffusionObjective(KarrasVE(), "edm", LevelTimes(KarrasVE(), Normal(2.4, 2.4))),
            torch.exp(-((log_snr - 2.4) ** 2) / (2 * 2.4**2)) * (torch.exp(-log_snr) + 0.25),
        ),
    }
    for objective, expected in known.values():
        inside = (log_snr > -8.7) if isinstance(objective.schedule, KarrasVE) else slice(None)
        found = objective.implied_weight(log_snr)[inside]
        torch.testing.assert_close(found / found[30], expected[inside] / expected[inside][30], rtol=1e-6, atol=0)


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


def test_logit_normal_times_are_normal_levels_of_rectified_flow() -> None:
    share = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    levels, logits = LevelTimes(RectifiedFlow(), Normal(-0.6, 1.4)), LogitNormalTimes(0.3, 0.7)
    torch.testing.assert_close(levels.quantile(share), logits.quantile(share), rtol=1e-9, atol=0)
    t = logits.quantile(share)
    torch.testing.assert_close(levels.density(t), logits.density(t), rtol=1e-9, atol=0)


def test_mode_times_are_stable_diffusion_3s() -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    for scale in (1.29, -0.5):
        published = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        torch.testing.assert_close(ModeTimes(scale).quantile(1 - u), published)
    published = 1 - 1 / (torch.tan(math.pi / 2 * u[:-1]) + 1)
    torch.testing.assert_close(CosMapTimes().quantile(u[:-1]), published)


def test_low_discrepancy_spreads_any_consecutive_samples_evenly_whatever_the_batch() -> None:
    times, positions = LowDiscrepancyTimes(UniformTimes(), seed=3), torch.arange(10_000)
    t = times(SEEDS.repeat(3)[:10_000], positions)
    for start, count in ((0, 64), (777, 1000), (5000, 4096)):
        ordered = t[start : start + count].sort().values
        even = (torch.arange(count) + 0.5) / count
        assert (ordered - even).abs().max() < 2.5 / count  # random ones: about 1/√count
    ranks = [times(SEEDS[:50], positions[rank:100:2]) for rank in (0, 1)]
    assert torch.equal(torch.stack(ranks, 1).flatten(), t[:100])
    assert not torch.equal(LowDiscrepancyTimes(UniformTimes(), seed=4)(SEEDS, positions[:4096]), t[:4096])
    far = times(SEEDS[:64], 2**40 + torch.arange(64)).sort().values
    assert (far - (torch.arange(64) + 0.5) / 64).abs().max() < 2.5 / 64
    with pytest.raises(ValueError, match="positions must be the samples' places in the run.*got none"):
        times(SEEDS)


def test_adaptive_times_go_where_the_loss_is_and_leave_the_objective() -> None:
    torch.manual_seed(0)
    times = AdaptiveTimes(UniformTimes(), bins=20, decay=0.9)
    objective = DiffusionObjective(CosineVP(), "v", times, weight=Sigmoid())
    plain = DiffusionObjective(CosineVP(), "v", UniformTimes(), weight=Sigmoid())
    x = 0.3 * ops.gaussian(SEEDS, (1, 2, 2), stream=ops.Purpose.LABEL.stream())

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return 0.9 * x_t

    before, expected = (o(model, x, torch.zeros(len(x)), SEEDS) for o in (objective, plain))
    torch.testing.assert_close(before, expected)  # nothing is known yet
    for _ in range(30):
        objective(model, x, torch.zeros(len(x)), SEEDS)
        objective.after_step()
    after = objective(model, x, torch.zeros(len(x)), SEEDS)
    error = math.hypot(after.std().item(), expected.std().item()) / math.sqrt(len(x))
    assert after.mean().item() == pytest.approx(expected.mean().item(), abs=4 * error)
    assert after.std() < 0.8 * expected.std()
    shares = times.shares()
    assert (
        shares.sum().item() == pytest.approx(1) and shares.min() >= 0.1 / 20 - 1e-6 and shares.max() > 3 * shares.min()
    )
    grid = torch.linspace(-8, 8, 40).double()
    torch.testing.assert_close(objective.implied_weight(grid), plain.implied_weight(grid), rtol=1e-5, atol=0)
    objective.after_step()
    objective.eval()
    counts = times.counts.clone()
    objective(model, x, torch.zeros(len(x)), SEEDS)
    objective.after_step()
    torch.testing.assert_close(times.counts, 0.9 * counts)  # nothing was noted


def test_adaptive_times_are_in_the_state_and_take_no_bad_losses() -> None:
    times = learned_times(CosineVP())
    other = AdaptiveTimes(LogitNormalTimes(), bins=7)
    DiffusionObjective(CosineVP(), "v", other).load_state_dict(
        DiffusionObjective(CosineVP(), "v", times).state_dict(), strict=True
    )
    assert torch.equal(times.shares(), other.shares()) and not torch.equal(
        other.shares(), other.shares().mean().expand(7)
    )
    other.observe(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([math.nan, math.inf, -3.0]))
    other.after_step()
    assert other.shares().isfinite().all()


def test_an_uncertainty_learns_the_loss_of_each_level() -> None:
    torch.manual_seed(0)
    weight = Uncertainty(EDMWeight())
    objective = DiffusionObjective(CosineVP(), "v", LevelTimes(CosineVP(), Normal(0, 3)), weight=weight)
    assert {name for name, _ in objective.named_parameters()} == {"weight.linear"}
    x = 0.5 * ops.gaussian(SEEDS, (1, 4, 4), stream=ops.Purpose.LABEL.stream())

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros_like(x_t)

    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = objective(model, x, torch.zeros(len(x)), SEEDS).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    log_snr = torch.linspace(-5, 5, 11)
    plain = DiffusionObjective(CosineVP(), "v", UniformTimes(), weight=EDMWeight())
    t = CosineVP().time(log_snr)
    # v's error is v itself: E v² = α² + σ²/4.
    left = plain.sample_weights(t) * (CosineVP().alpha(t) ** 2 + 0.25 * CosineVP().sigma(t) ** 2)
    torch.testing.assert_close(weight.offset(log_snr), left.log(), rtol=0, atol=0.4)


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

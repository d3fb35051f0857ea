"""Schedules and densities against formulas written independently, and what every schedule promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from visgen_fast.diffusion import (
    Cauchy,
    CosineVP,
    Density,
    DiscreteVP,
    FromDensity,
    HyperbolicSecant,
    Interpolated,
    KarrasVE,
    Laplace,
    LearnedVP,
    Normal,
    RectifiedFlow,
    Schedule,
    Shifted,
    SigmoidVP,
    Table,
    plan,
)

DISCRETE = {
    "linear": DiscreteVP.linear(),
    "scaled linear": DiscreteVP.scaled_linear(),
    "cosine": DiscreteVP.cosine(),
    "sigmoid": DiscreteVP.sigmoid(),
    "few": DiscreteVP.linear(40),
}
DENSITIES: list[Density] = [Normal(), Normal(2.4, 2.4), Laplace(), Cauchy(-1.0, 0.7), HyperbolicSecant(0.5, 2.0)]


def schedules() -> list[Schedule]:
    torch.manual_seed(0)
    others = [schedule.with_zero_terminal_snr() for schedule in DISCRETE.values()]
    return [
        *(
            RectifiedFlow(),
            CosineVP(),
            SigmoidVP(),
            SigmoidVP(0, 3, 0.7),
            KarrasVE(),
            Table([0, 0.45, 1], [9, 0.3, -14]),
        ),
        *(LearnedVP(), LearnedVP(-20, 20, features=16), *DISCRETE.values(), *others),
        *(FromDensity(density) for density in DENSITIES),
        *(Shifted(RectifiedFlow(), 1, 3), Shifted(CosineVP(), 16, 64), Shifted(CosineVP(), 16, 64, ends="keep")),
        *(Shifted(KarrasVE(), 16, 64), Shifted(DISCRETE["cosine"], 16, 64), Interpolated(CosineVP(), 32, 256, 512)),
        *(Interpolated(RectifiedFlow(), 32, 256, 512), Interpolated(others[0], 8, 16, 32)),
    ]


SCHEDULES = schedules()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
every_density = pytest.mark.parametrize("density", DENSITIES, ids=repr)


def times(count: int = 1201) -> Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)


@every_schedule
def test_log_snr_falls_strictly_and_is_the_ratio_of_alpha_and_sigma(schedule: Schedule) -> None:
    t = times()
    log_snr, alpha, sigma = schedule.log_snr(t), schedule.alpha(t), schedule.sigma(t)
    assert (log_snr.diff() < 0).all() and log_snr.isfinite().all()
    inside = (alpha > 0) & (sigma > 0)
    assert inside[1:-1].all()
    torch.testing.assert_close(log_snr[inside], 2 * (alpha / sigma).log()[inside], rtol=1e-9, atol=1e-9)
    for level, of_level in zip((alpha, sigma), schedule.levels(log_snr), strict=True):
        torch.testing.assert_close(of_level[inside], level[inside], rtol=1e-9, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_at_both_ends(schedule: Schedule, dtype: torch.dtype) -> None:
    t = torch.tensor([0.0, 1e-8, 0.5, 1.0], dtype=dtype, requires_grad=True)
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.slope):
        value = function(t)
        assert value.dtype == dtype and value.shape == t.shape and value.isfinite().all()
        if function != schedule.slope:
            assert torch.autograd.grad(value.sum(), t)[0].isfinite().all()


@every_schedule
@given(log_snr=st.floats(-20, 20))
def test_time_inverts_log_snr_between_the_ends(schedule: Schedule, log_snr: float) -> None:
    # A time next to 1 is known to 2⁻⁵⁴: those of a narrow density are 1 where less than that is left.
    ends = [1e-9, 1 - 1e-9] if isinstance(schedule, FromDensity) else [0.0, 1.0]
    high, low = schedule.log_snr(torch.tensor(ends, dtype=torch.float64)).tolist()
    wanted = torch.tensor([[min(max(log_snr, low), high)]], dtype=torch.float64)
    t = schedule.time(wanted)
    assert t.shape == (1, 1) and -1e-9 < t.item() < 1 + 1e-9
    torch.testing.assert_close(schedule.log_snr(t.clamp(0, 1)), wanted, rtol=1e-6, atol=1e-6)


@every_schedule
def test_derivatives_in_time_are_right(schedule: Schedule) -> None:
    t = torch.tensor([0.1234, 0.44444, 0.67891, 0.8765], dtype=torch.float64, requires_grad=True)  # between entries
    step = 1e-6
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr):
        (found,) = torch.autograd.grad(function(t).sum(), t)
        numbers = (function(t + step) - function(t - step)) / (2 * step)
        torch.testing.assert_close(found, numbers, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(schedule.slope(t), torch.autograd.grad(schedule.log_snr(t).sum(), t)[0])
    log_snr = schedule.log_snr(t).detach().requires_grad_()
    (found,) = torch.autograd.grad(schedule.time(log_snr).sum(), log_snr)
    torch.testing.assert_close(found, 1 / schedule.slope(t).detach(), rtol=1e-6, atol=0)


@every_schedule
def test_every_schedule_has_a_plan(schedule: Schedule) -> None:
    made = plan("euler", schedule, "v", steps=7)
    assert made.table.isfinite().all() and made.ends[0].time == 1 and made.ends[-1].time == 0


def test_float32_levels_keep_their_relative_precision() -> None:
    t = torch.tensor([1e-6, 1e-3, 0.5, 0.9, 1 - 2**-10])
    for schedule in SCHEDULES:
        for function in (schedule.alpha, schedule.sigma):
            # A time near 1 is known to 2⁻²⁵, and λ changes by 2/(1 − t) times as much where α falls to 0.
            torch.testing.assert_close(function(t).double(), function(t.double()), rtol=6e-5, atol=0)


@given(count=st.integers(1, 3), width=st.integers(1, 3))
@settings(max_examples=5)
def test_levels_may_belong_to_frames_or_tokens(count: int, width: int) -> None:
    t = torch.rand(count, 1, width, generator=torch.Generator().manual_seed(count))
    for schedule in SCHEDULES:
        flat = schedule.alpha(t.flatten())
        torch.testing.assert_close(schedule.alpha(t).flatten(), flat, rtol=0, atol=1e-6)


# The published constructions, in numpy.


def alphas_cumprod(name: str) -> np.ndarray:
    count = 40 if name == "few" else 1000
    if name in ("linear", "few"):
        betas = np.linspace(1e-4 * 1000 / count, 0.02 * 1000 / count, count)
    elif name == "scaled linear":
        betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), count) ** 2
    elif name == "sigmoid":
        betas = 1 / (1 + np.exp(-np.linspace(-6, 6, count))) * (0.02 - 1e-4) + 1e-4
    else:
        bar = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = np.array([min(1 - bar[i + 1] / bar[i], 0.999) for i in range(count)])
    return np.cumprod(1 - betas)


@pytest.mark.parametrize("name", DISCRETE)
def test_entries_of_discrete_schedules_are_the_published_ones_at_their_times(name: str) -> None:
    schedule, product = DISCRETE[name], alphas_cumprod(name)
    t = torch.arange(1, len(product) + 1, dtype=torch.float64) / len(product)
    np.testing.assert_allclose(schedule.alphas_cumprod.numpy(), product, rtol=1e-11)
    np.testing.assert_allclose(schedule.alpha(t).numpy() ** 2, product, rtol=1e-9)
    np.testing.assert_allclose(schedule.sigma(t).numpy() ** 2, 1 - product, rtol=1e-9)
    np.testing.assert_allclose(schedule.alpha(t.float()).numpy() ** 2, product, rtol=0, atol=1e-6)
    middle = t[:-1] + 0.5 / len(product)
    between = (schedule.log_snr(t)[1:] + schedule.log_snr(t)[:-1]) / 2
    torch.testing.assert_close(schedule.log_snr(middle), between, rtol=1e-9, atol=1e-9)
    assert schedule.alpha(torch.zeros(1)) == 1 and schedule.sigma(torch.zeros(1)) == 0


@pytest.mark.parametrize("name", DISCRETE)
def test_zero_terminal_snr_shifts_and_scales_the_roots(name: str) -> None:
    root = np.sqrt(alphas_cumprod(name))
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    schedule = DISCRETE[name].with_zero_terminal_snr()
    np.testing.assert_allclose(schedule.alphas_cumprod.numpy(), expected, rtol=1e-9, atol=0)
    assert schedule.zero_terminal_snr and not DISCRETE[name].zero_terminal_snr
    t = torch.arange(1, len(expected) + 1, dtype=torch.float64) / len(expected)
    np.testing.assert_allclose(schedule.alpha(t).numpy() ** 2, expected, rtol=1e-8, atol=0)


def test_known_constants_are_reproduced() -> None:
    ends = torch.tensor([0.001, 1.0], dtype=torch.float64)
    for name, known in {"linear": (9.210, -10.118), "scaled linear": (7.069, -5.364)}.items():
        assert DISCRETE[name].log_snr(ends).tolist() == pytest.approx(known, abs=6e-4)
    assert DISCRETE["linear"].alphas_cumprod[-1].item() == pytest.approx(4.036e-5, rel=1e-4)
    assert DISCRETE["cosine"].alphas_cumprod[-1].item() == pytest.approx(2.43e-9, rel=1e-3)
    assert KarrasVE().sigma(ends * 0 + torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.002, 80])


@pytest.mark.parametrize(("start", "end", "temperature"), [(-3, 3, 1.0), (0, 3, 0.5), (-1, 2, 1.1)])
def test_the_sigmoid_schedule_is_chens(start: float, end: float, temperature: float) -> None:
    def logistic(x: np.ndarray | float) -> np.ndarray:
        return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))

    t = np.linspace(0, 1, 101)
    low, high = logistic(start / temperature), logistic(end / temperature)
    here = logistic((t * (end - start) + start) / temperature)
    gamma = np.clip((high - here) / (high - low), 1e-9, 1)
    found = SigmoidVP(start, end, temperature).alpha(torch.from_numpy(t)).numpy() ** 2
    np.testing.assert_allclose(found, gamma, rtol=0, atol=1e-8)


def test_karras_levels_are_evenly_spaced_in_their_root() -> None:
    i = np.arange(12)
    # Equation 5 goes from noise to data.
    sigmas = (80 ** (1 / 7) + i / 11 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = KarrasVE().sigma(torch.from_numpy(1 - i / 11)).numpy()
    np.testing.assert_allclose(found, sigmas, rtol=1e-12)


def test_shifted_rectified_flow_is_stable_diffusion_3s() -> None:
    t, ratio = times(), 3.0
    moved = ratio * t / (1 + (ratio - 1) * t)
    schedule = Shifted(RectifiedFlow(), reference=1, resolution=ratio)
    torch.testing.assert_close(schedule.sigma(t), moved, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(schedule.alpha(t), 1 - moved, rtol=1e-12, atol=1e-15)
    assert schedule.zero_terminal_snr


def test_a_shift_multiplies_the_signal_to_noise_ratio_by_the_squared_ratio_of_sides() -> None:
    t = times()
    ratio = Shifted(CosineVP(), 16, 64).log_snr(t).exp() / CosineVP().log_snr(t).exp()
    torch.testing.assert_close(ratio, torch.full_like(t, (16 / 64) ** 2), rtol=1e-9, atol=0)


def test_a_shift_that_keeps_the_ends_is_a_cosine_between_ends_moved_back() -> None:
    """k-diffusion: the cosine schedule between logsnr_min − shift and logsnr_max − shift, plus shift."""
    t, shift = times(), 2 * math.log(16 / 64)
    a, b = math.atan(math.exp(-0.5 * (15 - shift))), math.atan(math.exp(-0.5 * (-15 - shift)))
    expected = -2 * torch.tan(a + t * (b - a)).log() + shift
    torch.testing.assert_close(Shifted(CosineVP(), 16, 64, ends="keep").log_snr(t), expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(expected[[0, -1]], torch.tensor([15.0, -15.0]).double(), rtol=1e-6, atol=0)


def test_an_interpolated_schedule_goes_from_the_high_shift_to_the_low_one() -> None:
    """denoising-diffusion-pytorch, simple_diffusion.py: t·(shifted by low) + (1 − t)·(shifted by high)."""
    t = times()
    low, high = (Shifted(CosineVP(), side, 512).log_snr(t) for side in (32, 256))
    torch.testing.assert_close(Interpolated(CosineVP(), 32, 256, 512).log_snr(t), t * low + (1 - t) * high)


@every_density
def test_densities_are_scipys(density: Density) -> None:
    width = getattr(density, "std", None) or density.scale
    theirs = {
        Normal: stats.norm(density.mean, width),
        Laplace: stats.laplace(density.mean, width),
        Cauchy: stats.cauchy(density.mean, width),
        # scipy's has the density sech(z)/π.
        HyperbolicSecant: stats.hypsecant(density.mean, 2 * width),
    }[type(density)]
    log_snr, share = torch.linspace(-18, 18, 101).double(), torch.linspace(0.001, 0.999, 101).double()
    np.testing.assert_allclose(density.pdf(log_snr), theirs.pdf(log_snr), rtol=1e-9)
    np.testing.assert_allclose(density.cdf(log_snr), theirs.cdf(log_snr), rtol=1e-9)
    np.testing.assert_allclose(density.survival(log_snr), theirs.sf(log_snr), rtol=1e-9)
    np.testing.assert_allclose(density.quantile(share), theirs.ppf(share), rtol=1e-9, atol=1e-9)


@every_density
def test_a_schedule_from_a_density_has_it_under_uniform_times(density: Density) -> None:
    schedule, log_snr = FromDensity(density), torch.linspace(-14, 14, 57).double()
    ends = torch.tensor([-15.0, 15.0]).double()
    inside = (density.cdf(ends[1]) - density.cdf(ends[0])).item()
    found = -1 / schedule.slope(schedule.time(log_snr))
    seen = (density.cdf(log_snr) > 1e-7) & (density.survival(log_snr) > 1e-7)
    torch.testing.assert_close(found[seen], density.pdf(log_snr)[seen] / inside, rtol=1e-6, atol=0)


def test_the_laplace_schedule_is_hangs_and_the_secant_one_is_the_cosine_schedule() -> None:
    t = times()[1:-1]
    mean, scale = 0.3, 0.5
    published = mean - scale * torch.sign(0.5 - t) * torch.log(1 - 2 * (t - 0.5).abs())
    # λ falls with t: at t < ½ it lies above the mean.
    torch.testing.assert_close(FromDensity(Laplace(mean, scale)).log_snr(t), published, rtol=0, atol=1e-9)
    torch.testing.assert_close(FromDensity(HyperbolicSecant()).log_snr(times()), CosineVP().log_snr(times()))


def test_a_learned_schedule_begins_near_a_line_stays_monotone_and_learns() -> None:
    torch.manual_seed(1)
    schedule, t = LearnedVP(-13.3, 5.0, features=64), times(101)
    torch.testing.assert_close(schedule.log_snr(t), 5 - 18.3 * t, rtol=0, atol=0.2)
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.3)
    for _ in range(30):
        optimizer.zero_grad()
        (schedule.log_snr(t.float()) - CosineVP(-13.3, 5).log_snr(t.float())).square().mean().backward()
        optimizer.step()
        log_snr = schedule.log_snr(t)
        assert (log_snr.diff() < 0).all()
        torch.testing.assert_close(log_snr[[0, -1]], torch.tensor([5.0, -13.3]).double(), rtol=1e-6, atol=0)
    assert (schedule.log_snr(t) - (5 - 18.3 * t)).abs().max() > 0.3
    assert schedule.bfloat16().bends.dtype == torch.float32


def test_a_learned_schedule_s_ends_are_those_of_vdm_and_stay_unless_they_are_learned() -> None:
    """γ = −λ from −13.3 to 5: the paper's on CIFAR-10."""
    t = times(2)
    torch.testing.assert_close(LearnedVP().log_snr(t), torch.tensor([13.3, -5.0]).double())
    schedule = LearnedVP(-4.0, 9.0, features=8, learn_ends=True)
    assert {"ends"} == {name for name, _ in schedule.named_parameters()} - {*dict(LearnedVP().named_parameters())}
    with torch.no_grad():
        schedule.ends += torch.tensor([-1.0, 2.0])
    torch.testing.assert_close(schedule.log_snr(t), torch.tensor([11.0, -5.0]).double())
    torch.testing.assert_close(schedule.time(schedule.log_snr(times(9))), times(9))
    schedule.log_snr(t).sum().backward()
    torch.testing.assert_close(schedule.ends.grad, torch.ones(2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SigmoidVP(3, 3), "start must be smaller than end, got 3 and 3"),
        (lambda: SigmoidVP(temperature=0), "temperature must be positive, got 0"),
        (lambda: SigmoidVP(floor=0), r"floor must lie in \(0, 0.5\), got 0"),
        (lambda: KarrasVE(sigma_min=0), "sigma_min must be positive and smaller than sigma_max, got 0 and 80"),
        (lambda: KarrasVE(rho=0), "rho must be positive, got 0"),
        (lambda: KarrasVE(rho=math.inf), "rho must be finite, got inf"),
        (lambda: Table([0], [1]), r"times must be two or more numbers in a row, got the shape \[1\]"),
        (lambda: Table([0, 1], [3, 2, 1]), "times and log_snr must be as many, got 2 times and 3 log_snr"),
        (lambda: Table([0, 2], [1, 0]), r"times must rise in \[0, 1\], got \[0.0, 2.0\]"),
        (lambda: Table([0, 1], [0, 0]), r"log_snr must be finite and fall, got \[0.0, 0.0\]"),
        (lambda: Table([0, 1], [0, -math.inf]), "log_snr must be finite and fall"),
        (lambda: DiscreteVP([1.0, 0.5]), "alphas_cumprod must fall, from below 1 to no less than 0"),
        (lambda: DiscreteVP([0.9, math.nan]), "alphas_cumprod must fall"),
        (lambda: DiscreteVP.linear(10), r"betas must lie in \(0, 1\), got 0.01 to 2"),
        (lambda: LearnedVP(1, 1), "log_snr_min must be smaller than log_snr_max, got 1 and 1"),
        (lambda: LearnedVP(features=0), "features must be at least 1, got 0"),
        (lambda: Normal(std=0), "std must be positive and finite, and mean finite, got std 0"),
        (lambda: Laplace(mean=math.nan), "scale must be positive and finite, and mean finite"),
        (lambda: FromDensity(Normal(), 2, 1), "log_snr_min must be smaller than log_snr_max, got 2 and 1"),
        (lambda: FromDensity(Normal(), 50, 60), "log_snr_min and log_snr_max must have some of Normal"),
        (lambda: Shifted(CosineVP(), 0, 64), "reference must be positive and finite, got 0"),
        (lambda: Shifted(CosineVP(), 16, 64, "stay"), "ends must be move or keep, got 'stay'"),
        (lambda: Shifted(SigmoidVP(), 1, 64, "keep"), "ends must be move for SigmoidVP.*, which does not go on"),
        (lambda: Shifted(LearnedVP(features=4), 1, 2), "schedule must not be a learned one"),
        (lambda: Interpolated(CosineVP(), 64, 32, 256), "low must be at most high, got 64 and 32"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()

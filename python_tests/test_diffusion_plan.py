"""Plans: every sampler has its order, is exact where it must be, and is finite or refused."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import (
    PREDICTIONS,
    SAMPLERS,
    SPACINGS,
    CosineVP,
    Plan,
    RectifiedFlow,
    Schedule,
    Shifted,
    convert,
    edm,
    plan,
    sample,
)

SEEDS = ops.derive_seeds(5, torch.arange(64))
LABELS = torch.arange(64)
MEANS, SPREADS, SHARES = torch.tensor([[-1.0, 0.4, 1.2], [0.2, 0.35, 0.15], [0.3, 0.5, 0.2]], dtype=torch.float64)
DETERMINISTIC = {
    "ddim": ({}, 1.0),
    "euler": ({}, 1.0),
    "heun": ({}, 1.9),
    "midpoint": ({}, 1.9),
    "dpm2": ({}, 1.9),
    "rk4": ({}, 3.7),
    "dpm++2s": ({}, 1.9),
    "dpm++2m": ({}, 1.9),
    "dpm++3m": ({"variant": "published"}, 1.9),
    "adams-bashforth": ({"order": 2}, 1.9),
    "deis": ({"order": 2}, 1.9),
    "deis 3": ({"order": 3}, 2.2),  # a first step of first order costs the third
    "sa-solver": ({"eta": 0.0}, 1.9),
    "sa-solver 3": ({"eta": 0.0, "corrector_order": 3, "lower_order_final": False}, 2.9),
    "sa-solver 4": ({"eta": 0.0, "order": 3, "corrector_order": 4, "lower_order_final": False}, 3.7),
    "unipc 1": ({"order": 1, "lower_order_final": False}, 1.9),
    "unipc 2": ({"order": 2, "lower_order_final": False}, 2.7),
    "unipc 3": ({"order": 3, "lower_order_final": False}, 3.2),
    "unipc 3 bh1": ({"order": 3, "lower_order_final": False, "variant": "bh1"}, 3.2),
}
STOCHASTIC = {
    "ddpm": {},
    "ddpm large": {"variance": "large"},
    "ddim": {"eta": 1.0},
    "euler": {"churn": 10.0},
    "heun": {"churn": 40.0},
    "euler-ancestral": {},
    "dpm++2s": {"eta": 1.0},
    "dpm++sde": {},
    "dpm++2m-sde": {},
    "dpm++2m-sde heun": {"variant": "heun"},
    "dpm++3m-sde": {},
    "sa-solver": {},
    "sa-solver everywhere": {"order": 3, "corrector_order": 4, "interval": (0.0, 1.0)},
    "consistency": {},
}
TCD_AND_ITS_ENDS = [("tcd", {"eta": 0.0}), ("ddim", {}), ("tcd", {"eta": 1.0}), ("consistency", {})]


def mixture(steps: Plan):
    """The optimal network for a mixture of Gaussians, as the plan's prediction."""

    def model(read: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = steps.schedule.alpha(t)[:, None], steps.schedule.sigma(t)[:, None]
        kind = steps.prediction
        x_t = read if kind.input_scale is None else read / kind.input_scale(alpha, sigma)
        variance = (alpha * SPREADS) ** 2 + sigma**2
        gap = x_t[..., None] - alpha[..., None] * MEANS
        variance = variance[:, None]
        share = (SHARES.log() - variance.log() / 2 - gap**2 / (2 * variance)).softmax(-1)
        denoised = (share * (MEANS + alpha[..., None] * SPREADS**2 / variance * gap)).sum(-1)
        return convert(denoised, x_t, alpha, sigma, "x", kind)

    return model


def levels(schedule: Schedule, steps: int) -> Tensor:
    """Times from σ/α = 10 to 0.1, even in its logarithm."""
    log_ratios = torch.linspace(math.log(10), math.log(0.1), steps + 1, dtype=torch.float64)
    return schedule.time(-2 * log_ratios)


def drawn(name: str, schedule: Schedule, kind: str, steps: int, **options) -> Tensor:
    made = plan(name, schedule, kind, times=levels(schedule, steps), **options)
    return sample(mixture(made), made, (1,), LABELS, SEEDS, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact() -> dict[type, Tensor]:
    return {type(s): drawn("rk4", s, "v", 1200) for s in (CosineVP(), RectifiedFlow())}


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize(("schedule", "kind"), [(CosineVP(), "v"), (RectifiedFlow(), "velocity"), (CosineVP(), "edm")])
def test_every_deterministic_sampler_has_its_order(name: str, schedule: Schedule, kind: str, exact) -> None:
    options, least = DETERMINISTIC[name]
    # Over many starts: the error of a single one may change its sign between the two.
    coarse, fine = (
        (drawn(name.split()[0], schedule, kind, n, **options) - exact[type(schedule)]).square().mean().sqrt()
        for n in (120, 240)
    )
    order = math.log2(coarse / fine)
    assert order >= least - (0.25 if least == 1.0 else 0), (order, coarse, fine)
    assert least > 1 or order < 1.2


def test_the_third_order_s_correction_needs_an_exact_history_and_has_less_error_anyway(exact) -> None:
    errors = {
        variant: (drawn("dpm++3m", CosineVP(), "v", 40, variant=variant) - exact[CosineVP]).abs().max()
        for variant in ("published", "corrected")
    }
    assert errors["corrected"] < errors["published"] / 1.5


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("schedule", [CosineVP(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_every_stochastic_sampler_reaches_the_gaussian_of_its_exact_denoiser(name: str, schedule: Schedule) -> None:
    """Data N(0, s²): samplers that add noise end with its spread, whichever noise they began with."""
    spread = 0.5
    made = plan(name.split()[0], schedule, "x", times=levels(schedule, 250), **STOCHASTIC[name])

    def model(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        if name == "consistency":  # the flow's own end rather than the mean of what the image may be
            return spread * x_t / (alpha**2 * spread**2 + sigma**2).sqrt()
        return alpha * spread**2 * x_t / (alpha**2 * spread**2 + sigma**2)

    seeds = ops.derive_seeds(1, torch.arange(2000))
    found = sample(model, made, (8,), torch.zeros_like(seeds), seeds, dtype=torch.float64)
    end = made.ends[-1]
    expected = (end.alpha**2 * spread**2 + end.sigma**2) ** 0.5
    # 16,000 numbers know their spread to 0.6 %; steps of first order have lost up to 2 % of it after 250.
    assert found.std().item() == pytest.approx(expected, rel=0.03)


def test_tcd_without_noise_is_ddim_and_with_all_of_it_a_consistency_model() -> None:
    made = [plan(name, CosineVP(), "v", steps=5, **options) for name, options in TCD_AND_ITS_ENDS]
    torch.testing.assert_close(made[0].table, made[1].table)
    torch.testing.assert_close(made[2].table, made[3].table, rtol=1e-5, atol=2e-3)  # the data's end has noise of e^−7.5


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("sa-solver", "tcd")])
def test_shifted_rectified_flow_is_rectified_flow_at_shifted_times(name: str) -> None:
    """The network is told another time; whatever else a table says is the same. (Two add noise by times.)"""
    shifted = plan(name, Shifted(RectifiedFlow(), 1, 3), "velocity", steps=6)
    times = plan(name, RectifiedFlow(), "velocity", steps=6, shift=3)
    assert shifted.step_of_row == times.step_of_row
    torch.testing.assert_close(shifted.table[:, 1:], times.table[:, 1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plan_is_finite_or_refused_in_a_sentence(name: str) -> None:
    for schedule in (CosineVP(), RectifiedFlow()):
        for kind in (*PREDICTIONS, edm(1.3)):
            for steps in (1, 2, 5):
                for spacing in SPACINGS:
                    refused = (
                        kind == "epsilon"
                        and schedule == RectifiedFlow()
                        and spacing in ("linear", "trailing", "beta", "quadratic")
                    )
                    if refused:
                        with pytest.raises(ValueError, match="'epsilon' says nothing of the image at t = 1"):
                            plan(name, schedule, kind, steps=steps, spacing=spacing)
                        continue
                    made = plan(name, schedule, kind, steps=steps, spacing=spacing)
                    assert made.table.isfinite().all() and made.steps == steps and made.slots <= 4
                    assert made.table.shape == (made.calls, 32) and made.times.shape == (made.calls,)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [CosineVP(), RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_a_constant_image_is_reached_exactly(name: str, schedule: Schedule) -> None:
    made = plan(name, schedule, "x", steps=6)
    images = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]
    result = sample(lambda x, t, labels: images, made, (1,), LABELS, SEEDS, dtype=torch.float64)
    rest = made.ends[-1].sigma * 6  # of the noise, where the schedule ends with some
    torch.testing.assert_close(result, images * made.ends[-1].alpha, rtol=1e-9, atol=1e-9 + rest)


def test_what_a_row_does_not_use_may_be_anything() -> None:
    """Slots begin with whatever memory holds."""
    made = plan("unipc", CosineVP(), "v", steps=5, order=3)
    x, output = torch.randn(2, 3), torch.randn(2, 3)
    slots = tuple(torch.full((2, 3), math.nan) for _ in range(made.slots))
    for row in range(made.calls):
        x, slots = ops.solver_step(x, output, made.table, row, slots=slots)
        assert x.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("frobnicate", CosineVP(), "v"), {}, "sampler must be one of ddpm, ddim, euler, .*; got 'frobnicate'"),
        (("euler", CosineVP(), "score"), {}, "prediction must be one of x, epsilon, v, velocity, edm; got 'score'"),
        (("euler", CosineVP(), "v"), {"spacing": "odd"}, "spacing must be one of linear, .*; got 'odd'"),
        (("euler", CosineVP(), "v"), {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (("euler", CosineVP(), "v"), {"steps": 2.5}, "steps must be a whole number of at least 1, got 2.5"),
        (("euler", CosineVP(), "v"), {"times": 0.5}, "times must be two or more numbers .*, got 0.5"),
        (("euler", CosineVP(), "v"), {"clamp": -1.0}, "clamp must be at least 0 and finite, got -1.0"),
        (("euler", CosineVP, "v"), {}, r"schedule must be a Schedule, for example CosineVP\(\), got <class"),
        (("euler", CosineVP(), "v"), {"steps": 1000, "spacing": "leading"}, "steps must be below 1000 with .*got 1000"),
        (("euler", CosineVP(), "v"), {"order": 2}, "euler has the options churn, .*; got order"),
        (
            ("euler", CosineVP(), "v"),
            {"times": [1.0, 0.5, 0.7]},
            r"that fall or rise throughout, got \[1.0, 0.5, 0.7\]",
        ),
        (("euler", CosineVP(), "v"), {"times": [1.5, 0.5]}, r"numbers in \[0, 1\]"),
        (("euler", CosineVP(), "v"), {"times": [0.5]}, "two or more numbers"),
        (
            ("euler", CosineVP(), "v"),
            {"times": [1.0, 0.0], "steps": 3},
            "either steps or times must be given, got both",
        ),
        (
            ("heun", RectifiedFlow(), "v"),
            {"times": [0.0, 0.5]},
            "times must begin where there is noise .*got .0.0, 0.5",
        ),
        (("ddpm", CosineVP(), "v"), {"times": [0.1, 0.5, 0.9]}, "an inversion, whose times rise, must add no noise"),
        (("unipc", CosineVP(), "v"), {"order": 4}, r"order must lie in \[1, 3\], got 4"),
        (("deis", CosineVP(), "v"), {"order": 4}, r"order must lie in \[1, 3\], got 4"),
        (("sa-solver", CosineVP(), "v"), {"corrector_order": 5}, r"corrector_order must lie in \[1, 4\], got 5"),
        (("euler", CosineVP(), "v"), {"shift": 0.0}, "shift must be positive, got 0.0"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(arguments, options, said) -> None:
    with pytest.raises(ValueError, match=said):
        plan(*arguments, **options)


@pytest.mark.parametrize("prediction", ["v", "edm", edm(0.7)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plan_goes_to_other_processes(name: str, prediction) -> None:
    made = plan(name, CosineVP(), prediction, steps=4)
    sent = pickle.loads(pickle.dumps(made))
    assert torch.equal(sent.table, made.table) and sent.prediction.name == made.prediction.name
    assert torch.equal(sent.after(1).table, made.after(1).table)


def test_a_sampler_of_one_s_own_is_a_function_of_the_path() -> None:
    from visgen_fast.diffusion.solvers.rows import Row, first_order

    def mine(path):
        for start, end in path.steps():
            yield Row(start, first_order(start, end))

    made, published = (plan(sampler, CosineVP(), "v", steps=4) for sampler in (mine, "ddim"))
    assert torch.equal(made.table, published.table) and made.sampler == "mine"


@pytest.mark.parametrize(("ends", "said"), [((True,), 1), ((True,) * 3, 3), ((True, True, False), 2), ((), 0)])
def test_a_sampler_of_one_s_own_ends_each_step_once(ends, said) -> None:
    from visgen_fast.diffusion.solvers.rows import Row, first_order

    def mine(path):
        start, end = path.levels[:2]
        yield from (Row(start, first_order(start, end), ends=one) for one in ends)

    with pytest.raises(ValueError, match=f"mine must yield rows of which 2 end a step, .*, got {said}"):
        plan(mine, CosineVP(), "v", steps=2)

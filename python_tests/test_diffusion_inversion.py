"""Inversion brings back what it came from; ways between two noises keep to the circle through them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import ClassifierFree, CosineVP, RectifiedFlow, Schedule, invert, plan, sample, slerp
from visgen_fast.diffusion.solvers import dpm_multi

SEEDS = ops.derive_seeds(5, torch.arange(4))
LABELS = torch.arange(4)
TOLERANCE = {"ddim": 0.05, "heun": 2e-3, "dpm++2m": 2e-3, "rk4": 1e-5}
IMAGES = torch.linspace(-1, 1, 4 * 6, dtype=torch.float64).view(4, 6)


def network(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return torch.sin(x_t + labels[:, None]) / 2 - t[:, None] / 4


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpm++2m", "rk4"])
@pytest.mark.parametrize("guidance", [None, ClassifierFree(2.0, 10)], ids=["unguided", "guided"])
@pytest.mark.parametrize(("schedule", "kind"), [(CosineVP(), "v"), (RectifiedFlow(), "velocity"), (CosineVP(), "edm")])
def test_inverted_images_are_drawn_again(sampler: str, guidance, schedule: Schedule, kind: str) -> None:
    way = torch.linspace(0.98, 0.02, 400, dtype=torch.float64)
    up, down = plan(sampler, schedule, kind, times=way.flip(0)), plan(sampler, schedule, kind, times=way)
    options = {"guidance": guidance, "dtype": torch.float64}
    noise = invert(network, up, IMAGES, LABELS, **options)
    assert (noise - IMAGES).abs().max() > 0.1
    again = sample(network, down, (6,), LABELS, SEEDS, noise=noise, **options)
    assert (again - IMAGES).abs().max() < TOLERANCE[sampler]


@pytest.mark.parametrize("name", ["heun", "dpm++2m", "dpm++3m", "dpm++3m-sde", "unipc", "deis", "adams-bashforth"])
def test_inversion_has_the_order_of_its_sampler(name: str) -> None:
    """On N(0, ½²), whose probability flow keeps each point at its share of the standard deviation."""
    schedule, spread = CosineVP(), 0.5

    def width(t: Tensor) -> Tensor:
        return (spread**2 * schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).sqrt()

    def exact(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return (spread**2 * schedule.alpha(t) / width(t) ** 2)[:, None] * x_t

    def error(steps: int) -> float:
        ends = torch.tensor([0.1, 0.9], dtype=torch.float64)
        way = plan(name, schedule, "x", times=torch.linspace(*ends, steps + 1), **options)
        noise = invert(exact, way, IMAGES * width(ends[0]), LABELS, dtype=torch.float64)
        return float((noise * schedule.sigma(ends[1]) / width(ends[1]) - IMAGES).abs().max())

    options = {"eta": 0.0} if name.endswith("sde") else {"lower_order_final": False} if name == "unipc" else {}
    assert math.log2(error(80) / error(160)) > 1.85


@given(rate=st.floats(-3, 3).filter(lambda rate: rate != 0))
def test_integrals_of_the_exponential_are_exact_in_both_directions(rate: float) -> None:
    terms = [(-1) ** k * rate**k / math.factorial(k + 1) for k in range(1, 40)]
    assert dpm_multi._phi_2(rate) == pytest.approx(-math.fsum(terms), rel=1e-9)
    terms = [(-1) ** k * rate**k / math.factorial(k + 2) for k in range(1, 40)]
    assert dpm_multi._phi_3(rate) == pytest.approx(math.fsum(terms), rel=1e-9)


def test_the_seeds_own_noise_may_be_given() -> None:
    steps = plan("ddim", CosineVP(), "v", steps=5, eta=0.5)
    own = ops.gaussian(SEEDS, (6,), stream=ops.Purpose.INITIAL_STATE.stream())
    given_noise = sample(network, steps, (6,), LABELS, SEEDS, noise=own)
    assert torch.equal(given_noise, sample(network, steps, (6,), LABELS, SEEDS))
    assert not torch.equal(given_noise, sample(network, steps, (6,), LABELS, SEEDS, noise=own.flip(0)))


def test_falling_times_are_no_inversion() -> None:
    with pytest.raises(ValueError, match="the times of an inversion must rise, got 1 to 0: reverse them"):
        invert(network, plan("ddim", CosineVP(), "v", steps=5), IMAGES, LABELS)


def noises(key: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, 4, 5, generator=torch.Generator().manual_seed(key))


@given(weight=st.floats(-0.5, 1.5), key=st.integers(0, 50))
def test_a_way_between_two_unit_vectors_turns_by_its_share_of_the_angle(weight: float, key: int) -> None:
    a, b = (some.double() / some.double().norm(dim=(1, 2), keepdim=True) for some in (noises(key), noises(key + 100)))
    found = slerp(a, b, weight)
    torch.testing.assert_close(found.norm(dim=(1, 2)), torch.ones(3, dtype=torch.float64), rtol=1e-9, atol=0)
    angle = (a * b).sum((1, 2)).acos()
    torch.testing.assert_close((a * found).sum((1, 2)), (weight * angle).cos(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((b * found).sum((1, 2)), ((1 - weight) * angle).cos(), rtol=1e-9, atol=1e-9)


def test_a_way_begins_and_ends_where_it_should_and_each_sample_has_its_own() -> None:
    a, b = noises(0), noises(1)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    weights = torch.tensor([0.2, 0.5, 0.9])
    together = slerp(a, b, weights)
    assert together.dtype == torch.float32 and together.shape == a.shape
    for i, weight in enumerate(weights.tolist()):
        torch.testing.assert_close(together[i : i + 1], slerp(a[i : i + 1], b[i : i + 1], weight))


def test_where_there_is_no_circle_the_way_is_straight() -> None:
    a = noises(0)
    for b in (a, 2 * a, -a, -3 * a, torch.zeros_like(a), a * (1 + 1e-7)):
        for weight in (0.0, 0.25, 0.5, 1.0):
            expected = (1 - weight) * a + weight * b
            torch.testing.assert_close(slerp(a, b, weight), expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(slerp(b, a, 1 - weight), expected, rtol=1e-6, atol=1e-6)


def test_nearly_parallel_samples_are_turned_without_a_jump() -> None:
    """On both sides of the angle below which the way is straight."""
    a, b = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    for angle in (0.5e-4, 0.9e-4, 1.1e-4, 2e-4):
        b[0, 0], b[0, 1] = math.cos(angle), math.sin(angle)
        expected = torch.tensor([[math.cos(0.3 * angle), math.sin(0.3 * angle)]], dtype=torch.float64)
        torch.testing.assert_close(slerp(a, b, 0.3), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((noises(0), noises(0, 2), 0.5), r"a and b must have one shape \[B, ...\], got \[3, 4, 5\] and \[2, 4, 5\]"),
        ((torch.tensor(1.0), torch.tensor(1.0), 0.5), r"must have one shape \[B, ...\], got \[\] and \[\]"),
        ((noises(0), noises(1), torch.ones(2)), r"weight must be a number or \[3\], got a tensor of shape \[2\]"),
    ],
)
def test_what_has_no_way_is_refused(arguments, said) -> None:
    with pytest.raises(ValueError, match=said):
        slerp(*arguments)

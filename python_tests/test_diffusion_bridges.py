"""Bridges are rows of `diffuse`, couplings are the best permutations, and both find known paths between Gaussians."""

import itertools
import math

import pytest
import torch

from visgen_fast import ops
from visgen_fast.diffusion import bridge_coefficients, optimal, sample_bridge

INTERPOLANTS, SIGMA = ("linear", "trigonometric", "brownian"), 0.7


def pair(batch, dimensions=3):
    x, endpoint, noise = (
        ops.gaussian(torch.arange(batch), (dimensions,), stream=s, dtype=torch.float64) for s in range(3)
    )
    return x, endpoint + 0.5, noise


def state(interpolant, t, x, endpoint, noise):
    """x_t as the papers write it."""
    if interpolant == "linear":
        return (1 - t) * x + t * endpoint + SIGMA * noise
    if interpolant == "trigonometric":
        return torch.cos(math.pi * t / 2) * x + torch.sin(math.pi * t / 2) * endpoint + SIGMA * noise
    return (1 - t) * x + t * endpoint + SIGMA * torch.sqrt(t * (1 - t)) * noise


@pytest.mark.parametrize("interpolant", INTERPOLANTS)
def test_rows_are_the_state_its_derivative_and_its_parts(interpolant):
    x, endpoint, noise = pair(5)
    t = torch.tensor([0.01, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    wide = t[:, None].repeat(1, 3)
    expected = {"start": x, "noise": noise, "endpoint": endpoint}
    _, expected["velocity"] = torch.func.jvp(
        lambda t: state(interpolant, t, x, endpoint, noise), (wide,), (torch.ones_like(wide),)
    )
    x_t = state(interpolant, wide, x, endpoint, noise)
    if interpolant == "brownian":
        expected |= {"forward_drift": (endpoint - x_t) / (1 - wide), "backward_drift": (x - x_t) / wide}
    for target, wanted in expected.items():
        rows = bridge_coefficients(interpolant, target, t, sigma=SIGMA)
        found, aim = ops.diffuse(x, rows, endpoint=endpoint, noise=noise)
        assert rows.shape == (5, 6) and rows.dtype == torch.float64
        assert (found - x_t).abs().max() < 1e-13 and (aim - wanted).abs().max() < 1e-12


def test_time_reversed_a_brownian_bridge_swaps_its_ends_and_its_drifts():
    t = torch.tensor([0.2, 0.6], dtype=torch.float64)
    forward = bridge_coefficients("brownian", "forward_drift", t, sigma=SIGMA)
    backward = bridge_coefficients("brownian", "backward_drift", 1 - t, sigma=SIGMA)
    assert (forward - backward[:, [4, 1, 5, 3, 0, 2]]).abs().max() < 1e-14


def test_without_noise_all_ways_to_move_are_one():
    t = torch.tensor([0.2, 0.6])
    straight = bridge_coefficients("linear", "velocity", t)
    assert torch.equal(bridge_coefficients("brownian", "velocity", t), straight)
    assert torch.equal(bridge_coefficients("brownian", "forward_drift", t), straight)


def test_the_best_permutation_is_found_in_any_order_of_the_batch():
    for count in (2, 3, 5, 6, 7):
        x, endpoint, _ = pair(count)
        cost = torch.cdist(x, endpoint).square()
        everyone = torch.tensor(list(itertools.permutations(range(count))))
        best = everyone[cost[torch.arange(count), everyone].sum(1).argmin()]
        assert torch.equal(optimal(x, endpoint), best)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        again = optimal(x[order], endpoint[order])
        assert torch.equal(order[again], best[order])


@pytest.mark.parametrize("regularization", [0.0, 2.0])
def test_pairs_never_cross_labels_and_take_every_endpoint_once(regularization):
    x, endpoint, _ = pair(40)
    labels, seeds = torch.arange(40) % 3, torch.arange(40)
    found = optimal(x, endpoint, labels=labels, regularization=regularization, seeds=seeds)
    assert torch.equal(found.sort().values, torch.arange(40)) and torch.equal(labels[found], labels)
    assert not torch.equal(found, torch.arange(40))
    order = torch.arange(40).flip(0)
    again = optimal(x[order], endpoint[order], labels=labels[order], regularization=regularization, seeds=seeds[order])
    assert torch.equal(order[again], found[order])


def test_regularized_permutations_come_as_often_as_their_weight_says():
    x, endpoint, _ = pair(3, 1)
    cost, regularization, draws = torch.cdist(x, endpoint).square(), 1.5, 300
    everyone = list(itertools.permutations(range(3)))
    weights = torch.tensor([math.exp(-sum(cost[i, j] for i, j in enumerate(p)) / regularization) for p in everyone])
    # Copies of the three as so many labels: as many draws in one call.
    seeds, labels = torch.arange(3 * draws), torch.arange(draws).repeat_interleave(3)
    copies = [end.repeat(draws, 1) for end in (x, endpoint)]
    found = optimal(*copies, labels=labels, regularization=regularization, seeds=seeds).view(draws, 3) % 3
    share = torch.tensor([float((found == torch.tensor(p)).all(1).float().mean()) for p in everyone])
    assert (share - weights / weights.sum()).abs().max() < 0.08 and (share > 0).sum() > 3


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_known_drift_carries_one_gaussian_to_the_other(direction):
    """From N(0, 1) to N(1, 1) the drift of independent ends, E[x₁ − x_t | x_t]/(1 − t), is linear."""
    count, steps = 4000, 100
    here, there = (0.0, 1.0) if direction == "forward" else (1.0, 0.0)

    def drift(x, t, labels):
        s = (t if direction == "forward" else 1 - t)[:, None]  # gone
        variance = (1 - s) ** 2 + s**2 + SIGMA**2 * s * (1 - s)
        mean = (1 - s) * here + s * there
        return (there + s / variance * (x - mean) - x) / (1 - s)

    start = here + ops.gaussian(torch.arange(count), (1,), dtype=torch.float64)
    seeds = torch.arange(count) + count
    ended = sample_bridge(drift, start, seeds, sigma=SIGMA, direction=direction, steps=steps)
    assert abs(ended.mean() - there) < 0.06 and abs(ended.std() - 1) < 0.05
    path = sample_bridge(drift, start[:3], seeds[:3], sigma=SIGMA, direction=direction, steps=steps, path=True)
    assert path.shape == (steps + 1, 3, 1) and torch.equal(path[0], start[:3])
    assert (path[-1] - ended[:3]).abs().max() < 1e-12


def test_without_noise_the_way_back_is_the_way():
    start = ops.gaussian(torch.arange(4), (2,), dtype=torch.float64)
    velocity = lambda x, t, labels: torch.sin(x) + t[:, None]  # noqa: E731
    options = {"sigma": 0.0, "steps": 2000}
    there = sample_bridge(velocity, start, torch.arange(4), direction="forward", **options)
    back = sample_bridge(velocity, there, torch.arange(4), direction="backward", **options)
    assert (there - start).abs().min() > 0.1 and (back - start).abs().max() < 1e-2


def test_the_last_step_may_leave_its_noise_out():
    still = lambda x, t, labels: torch.zeros_like(x)  # noqa: E731
    start, seeds = torch.zeros(2, 3), torch.arange(2)
    options = {"sigma": 1.0, "direction": "forward", "path": True}
    noisy = sample_bridge(still, start, seeds, steps=4, **options)
    clean = sample_bridge(still, start, seeds, steps=4, final_noise=False, **options)
    assert torch.equal(noisy[:4], clean[:4]) and torch.equal(clean[4], clean[3]) and not torch.equal(noisy[4], clean[4])


def test_what_does_not_fit_gets_a_sentence():
    t, x = torch.tensor([0.5, 0.25]), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="interpolant must be one of linear, trigonometric, brownian, got 'cubic'"):
        bridge_coefficients("cubic", "velocity", t)
    with pytest.raises(ValueError, match="target forward_drift must be of the interpolant brownian, got linear"):
        bridge_coefficients("linear", "forward_drift", t)
    for end in (0.0, 1.0):
        for target in ("forward_drift", "backward_drift", "velocity"):
            with pytest.raises(
                ValueError, match=rf"t must lie in \(0, 1\) for the {target} of a brownian path, got \[0.5"
            ):
                bridge_coefficients("brownian", target, torch.tensor([0.5, end]), sigma=1.0)
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        bridge_coefficients("linear", "velocity", t, sigma=-1.0)
    with pytest.raises(ValueError, match="x must have at least 2 samples to be coupled, got 1"):
        optimal(x[:1], x[:1])
    with pytest.raises(ValueError, match=r"x and endpoint must have one shape \[B, …\], got \[2, 3\] and \[2, 4\]"):
        optimal(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="seeds must be given where regularization is above 0"):
        optimal(x, x, regularization=1.0)
    with pytest.raises(ValueError, match="direction must be one of forward, backward, got 'up'"):
        sample_bridge(lambda *_: x, x, torch.arange(2), sigma=0.0, direction="up", steps=1)
    with pytest.raises(ValueError, match="sigma must be at least 0, got -0.5"):
        sample_bridge(lambda *_: x, x, torch.arange(2), sigma=-0.5, direction="forward", steps=1)

"""Schrödinger bridges of Gaussians: both ways to learn them end at the covariance that is known in closed form."""

import pytest
import torch

from visgen_fast import ops
from visgen_fast.diffusion import bridge_coefficients, sample_bridge
from visgen_fast.diffusion.schrodinger import TARGETS, drift_to, reversed_target

SHIFT, STEPS, KNOWN = 0.1, 20, 0.618  # Cov = ½(√(4 + σ⁴) − σ²) between N(−a, 1) and N(a, 1) for σ = 1


class Lines:
    """A network that is a line in every coordinate at each time of a grid, fitted by least squares."""

    def __init__(self):
        self.lines = {}

    def fit(self, time, x, target):
        x, target = x.double(), target.double()
        slope = ((x - x.mean()) * (target - target.mean())).mean() / x.var(unbiased=False)
        self.lines[round(time * STEPS)] = slope, target.mean() - slope * x.mean()

    def __call__(self, x, t, labels):
        slope, offset = self.lines[round(float(t[0]) * STEPS)]
        return slope * x + offset


def end(which, count, dimensions, turn):
    seeds = ops.derive_seeds(turn, torch.arange(count), purpose=which)
    return (SHIFT if which else -SHIFT) + ops.gaussian(seeds, (dimensions,), dtype=torch.float64), seeds


def statistics(pairs):
    start, stop = (side - side.mean() for side in pairs)
    return (start * stop).mean().item()


def check(start, stop, mean, variance, covariance):
    for side, wanted in ((start, -SHIFT), (stop, SHIFT)):
        assert abs(side.mean() - wanted) < mean and abs(side.var() - 1) < variance
    assert abs(statistics((start, stop)) - KNOWN) < covariance


@pytest.mark.parametrize("dimensions", [1, 5, 20])
@pytest.mark.parametrize("target", TARGETS)
def test_dsb_ends_at_the_known_bridge(target, dimensions):
    count = 12_000 // dimensions
    networks = {"forward": lambda x, t, labels: torch.zeros_like(x)}
    directions = ("forward", "backward")
    for turn in range(9):
        going, other = directions[turn % 2], directions[1 - turn % 2]
        start, seeds = end(turn % 2, count, dimensions, turn)
        path = sample_bridge(networks[going], start, seeds, sigma=1.0, direction=going, steps=STEPS, path=True)
        learned = Lines()
        for place in range(1, STEPS + 1):
            x, t, aim = reversed_target(
                path,
                torch.full((count,), place),
                target,
                direction=going,
                drift=None if turn == 0 else networks[going],
            )
            learned.fit(float(t[0]), x, aim)
        networks[other] = drift_to(learned, other) if target == "terminal" else learned
    start, seeds = end(1, count, dimensions, 99)
    path = sample_bridge(networks["backward"], start, seeds, sigma=1.0, direction="backward", steps=STEPS, path=True)
    check(path[-1], path[0], 0.05, 0.08, 0.05)


@pytest.mark.parametrize("dimensions", [1, 5, 20])
def test_dsb_matching_ends_at_the_known_bridge_and_its_first_turns_are_the_known_ones(dimensions):
    count = 12_000 // dimensions
    x, endpoint = end(0, count, dimensions, 0)[0], end(1, count, dimensions, 0)[0]
    found = []
    for turn in range(6):
        backward = turn % 2 == 0
        going, target = ("backward", "backward_drift") if backward else ("forward", "forward_drift")
        learned = Lines()
        for place in range(1, STEPS + 1) if backward else range(STEPS):
            t = torch.full((count,), place / STEPS, dtype=torch.float64)
            rows = bridge_coefficients("brownian", target, t.clamp(0.001, 0.999), sigma=1.0)
            learned.fit(place / STEPS, *ops.diffuse(x, rows, torch.arange(count) + 7 * place, endpoint=endpoint))
        start, seeds = end(int(backward), count, dimensions, turn + 1)
        reached = sample_bridge(learned, start, seeds, sigma=1.0, direction=going, steps=STEPS)
        x, endpoint = (reached, start) if backward else (start, reached)
        found.append(statistics((x, endpoint)))
    assert abs(found[0] - 0.546) < 0.05 and abs(found[1] - 0.611) < 0.05
    assert found[0] < min(found[3:])
    check(x, endpoint, 0.05, 0.08, 0.05)


def test_targets_are_what_they_say():
    path = ops.gaussian(torch.arange(5), (3, 2), dtype=torch.float64)  # 4 steps of 3 samples
    place, each = torch.tensor([1, 3, 4]), torch.arange(3)
    here, before = path[place, each], path[place - 1, each]
    drift = lambda x, t, labels: torch.sin(x) * (1 + t[:, None]) + labels  # noqa: E731
    for direction in ("forward", "backward"):
        gone = place / 4
        found = {
            target: reversed_target(path, place, target, direction=direction, drift=drift, labels=2.0)
            for target in TARGETS
        }
        t = (1 - gone if direction == "backward" else gone).double()
        assert all(torch.equal(x, here) and torch.equal(time, t) for x, time, _ in found.values())
        assert torch.equal(found["terminal"][2], path[0])
        assert (found["flow"][2] - (path[0] - here) / gone[:, None]).abs().max() < 1e-12
        assert (found["previous"][2] - 4 * (before - here)).abs().max() < 1e-12
        earlier = t + (0.25 if direction == "backward" else -0.25)
        moved = [x + drift(x, earlier, 2.0) / 4 for x in (before, here)]
        assert (found["mean"][2] - 4 * (moved[0] - moved[1])).abs().max() < 1e-12
        back = drift_to(lambda x, t, labels: path[0], "backward" if direction == "forward" else "forward")
        assert (back(here, t, None) - found["flow"][2]).abs().max() < 1e-12


def test_what_does_not_fit_gets_a_sentence():
    path, place = torch.zeros(3, 2, 1), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="target must be one of mean, previous, terminal, flow, got 'next'"):
        reversed_target(path, place, "next", direction="forward")
    with pytest.raises(ValueError, match=r"place must be 2 numbers from 1 to 2, got \[0, 1\]"):
        reversed_target(path, place - 1, "flow", direction="forward")
    with pytest.raises(ValueError, match="direction must be one of forward, backward, got 'there'"):
        drift_to(lambda x, t, labels: x, "there")

"""How often the 95% intervals of a fit hold the truth, in simulated studies whose truth is known.

`python -m benchmarks.coverage` takes ten minutes on a core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from visgen_fast.evaluation import Vote, bradley_terry, fit_scaling_law

IRREDUCIBLE = 1.69
EXPONENTS = {"parameters": 0.34, "samples": 0.28}
COEFFICIENTS = {"parameters": 406.4, "samples": 410.7}
_NOISE = 0.01

STRENGTHS = {"a": 0.8, "b": 0.3, "c": 0.0, "d": -0.6}  # θ of the average rater
_TASTE = 0.35  # standard deviation of a rater's own θ about that
_RATERS, _VOTES = 12, 60


def grid(side: int = 6) -> dict[str, torch.Tensor]:
    """Sizes of side² runs."""
    sizes = torch.logspace(6, 9, side, dtype=torch.float64), torch.logspace(8, 11, side, dtype=torch.float64)
    return dict(zip(EXPONENTS, (size.flatten() for size in torch.meshgrid(*sizes, indexing="ij")), strict=True))


def losses(sizes: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of Hoffmann et al.'s law, exact."""
    powers = (COEFFICIENTS[name] * size ** -EXPONENTS[name] for name, size in sizes.items())
    return IRREDUCIBLE + sum(powers, torch.zeros((), dtype=torch.float64))


def scaling(studies: int, seed: int = 0, bootstrap: int = 1000) -> dict[str, float]:
    """The share of studies whose intervals hold E and each exponent: a 6×6 grid of runs, losses with 1% noise."""
    generator, sizes = torch.Generator().manual_seed(seed), grid()
    held = dict.fromkeys(("irreducible", *EXPONENTS), 0)
    for _ in range(studies):
        noise = torch.randn(36, generator=generator, dtype=torch.float64)
        law = fit_scaling_law(losses(sizes) * (1 + _NOISE * noise), **sizes, bootstrap=bootstrap)
        held["irreducible"] += _within(IRREDUCIBLE, law.irreducible_interval)
        for name, term in law.terms.items():
            held[name] += _within(EXPONENTS[name], term.interval)
    return {name: count / studies for name, count in held.items()}


def ratings(studies: int, seed: int = 0) -> dict[str, float]:
    """The share of intervals that hold the truth: 12 raters with tastes of their own, 60 votes each on four sets.

    The truth is the rating that infinitely many such raters would give. Votes are analyzed by rater, and as if
    each were of another person.
    """
    draws, truth = np.random.default_rng(seed), _population()
    held = {"by rater": 0, "raters ignored": 0}
    for _ in range(studies):
        votes = _votes(draws)
        anonymous = [Vote(vote.left, vote.right, vote.outcome, str(number)) for number, vote in enumerate(votes)]
        for how, given in zip(held, (votes, anonymous), strict=True):
            intervals = bradley_terry(given).intervals
            held[how] += sum(_within(truth[name], intervals[name]) for name in STRENGTHS)
    return {how: count / (studies * len(STRENGTHS)) for how, count in held.items()}


def _votes(draws: np.random.Generator) -> list[Vote]:
    votes = []
    for rater in range(_RATERS):
        taste = {name: strength + _TASTE * draws.standard_normal() for name, strength in STRENGTHS.items()}
        for _ in range(_VOTES):
            left, right = (str(name) for name in draws.permutation(list(STRENGTHS))[:2])
            wins = draws.random() < 1 / (1 + np.exp(taste[right] - taste[left]))
            votes.append(Vote(left, right, "left" if wins else "right", str(rater)))
    return votes


def _population() -> dict[str, float]:
    """Elo ratings of infinitely many raters: of shares of wins in the mean over tastes, by Zermelo's iteration."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    strengths = np.array(list(STRENGTHS.values()))
    gaps = strengths[:, None] - strengths
    wins = (weights / weights.sum() / (1 + np.exp(-(gaps[..., None] + 2**0.5 * _TASTE * nodes)))).sum(-1)
    np.fill_diagonal(wins, 0)
    power = np.ones(len(strengths))
    for _ in range(10_000):
        rivals = 1 / (power[:, None] + power)
        np.fill_diagonal(rivals, 0)
        power = wins.sum(1) / rivals.sum(1)
        power /= np.exp(np.log(power).mean())
    return dict(zip(STRENGTHS, 1500 + 400 * np.log10(power), strict=True))


def _within(truth: float, interval: tuple[float, float]) -> bool:
    return interval[0] <= truth <= interval[1]


STUDIES = {"scaling": (scaling, 200), "ratings": (ratings, 300)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("fits", nargs="*", choices=[*STUDIES, []], help="which; all by default")
    parser.add_argument("--studies", type=int, help="how many; by default as many as the fit's promise names")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.fits or STUDIES:
        study, promised = STUDIES[name]
        count = options.studies or promised
        shares = ", ".join(f"{what} {share:.1%}" for what, share in study(count).items())
        print(f"{name}: of {count} studies, 95% intervals hold {shares}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

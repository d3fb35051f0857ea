"""How often the 95% intervals of a fit hold the truth, in simulated studies whose truth is known.

`python -m benchmarks.coverage scaling --studies 200` takes five minutes on a core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from visgen_fast.evaluation import fit_scaling_law

IRREDUCIBLE = 1.69
EXPONENTS = {"parameters": 0.34, "samples": 0.28}
COEFFICIENTS = {"parameters": 406.4, "samples": 410.7}
_NOISE = 0.01


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


def _within(truth: float, interval: tuple[float, float]) -> bool:
    return interval[0] <= truth <= interval[1]


STUDIES = {"scaling": (scaling, 200)}


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

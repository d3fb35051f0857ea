"""Does the search ever choose a wrong code? `python -m benchmarks.exactness --rows 10000000` counts.

Draws problems, half of them made to mislead a search of reduced precision, quantizes them, and compares the score of
every code chosen, at every depth, with the best of all scores in float64 on the residual that the operation's own
earlier codes leave. On a CPU each problem draws an instruction set and a filter. A code is wrong where its score is off
by more than D·2⁻⁵⁰ of its scale, where it has NaN or infinity though another one has not, and where a code with a lower
number is its duplicate.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast._library import FILTERS, use_filters_from
from visgen_fast.reference.quantize import scores

from .capability import instruction_sets, use_instruction_set

METRICS = ("l2", "cosine", "dot")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _heavy_tails(x: Tensor, g: torch.Generator) -> Tensor:
    return x / torch.randn(*x.shape, 3, generator=g).square().mean(-1).sqrt()


def _one_wide_dimension(x: Tensor, g: torch.Generator) -> Tensor:
    return torch.cat((x[:, :1] * 20, x[:, 1:]), -1)


def _any_magnitude(x: Tensor, g: torch.Generator) -> Tensor:
    return x * 10 ** (40 * torch.rand(len(x), 1, generator=g) - 20)


def _lattice(x: Tensor, g: torch.Generator) -> Tensor:
    return (2 * x).round()


def _with_zeros(x: Tensor, g: torch.Generator) -> Tensor:
    return x * (torch.rand(len(x), 1, generator=g) < 0.5)


def _with_strangers(x: Tensor, g: torch.Generator) -> Tensor:
    strangers = torch.tensor([torch.nan, torch.inf, -torch.inf])[torch.randint(3, x.shape, generator=g)]
    return torch.where(torch.rand(x.shape, generator=g) < 0.5 / x.shape[-1], strangers, x)


# What both rows and codes go through.
SHAPES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "normal": lambda x, g: x,
    "uniform": lambda x, g: x.erf(),
    "heavy tails": _heavy_tails,
    "one wide dimension": _one_wide_dimension,
    "far from zero": lambda x, g: x + 100,
    "tiny": lambda x, g: x * 1e-30,
    "huge": lambda x, g: x * 1e30,
    "subnormal": lambda x, g: x * 1e-41,
    "any magnitude": _any_magnitude,
    "lattice": _lattice,
    "zeros": _with_zeros,
    "NaN and infinity": _with_strangers,
}


def _duplicates(codes: Tensor, g: torch.Generator) -> Tensor:
    return codes[torch.randint(max(1, len(codes) // 3), (len(codes),), generator=g)]


def _near_duplicates(codes: Tensor, g: torch.Generator) -> Tensor:
    """Codes that differ by one unit in the last place of a few values."""
    some = _duplicates(codes, g)
    moved = torch.rand(some.shape, generator=g) < 0.1
    return torch.where(moved, torch.nextafter(some, torch.tensor(torch.inf, dtype=some.dtype)), some)


# What only the codes go through.
CODES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "as drawn": lambda codes, g: codes,
    "duplicates": _duplicates,
    "near duplicates": _near_duplicates,
    "one code repeated": lambda codes, g: codes[:1].expand_as(codes),
    "one code far away": lambda codes, g: torch.cat((codes[:1] * 1000, codes[1:])),
    "larger than the rows": lambda codes, g: codes * 1e4,
    "smaller than the rows": lambda codes, g: codes * 1e-4,
}


@dataclass(frozen=True)
class Problem:
    shape: str
    codes: str
    x: Tensor  # [rows, dimensions]
    codebooks: Tensor  # [depth, codes, dimensions]
    metric: str


def draw(g: torch.Generator, shape: str, codes: str, metric: str, dtype: torch.dtype, rows: int) -> Problem:
    """A problem of at most `rows` rows. A third of them lie close to a code, an eighth half-way between two."""

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    rows, depth = integer(1, rows), integer(1, 3)
    size = (1, integer(2, 40), integer(2, 700))[min(integer(0, 7), 2)]
    dimensions = 257 if integer(0, 15) == 0 else integer(1, 70)
    books = [CODES[codes](SHAPES[shape](torch.randn(size, dimensions, generator=g), g), g) for _ in range(depth)]
    codebooks = torch.stack(books).to(torch.promote_types(dtype, torch.float32))
    x = SHAPES[shape](torch.randn(rows, dimensions, generator=g), g)
    one, other = (codebooks[0, torch.randint(size, (rows,), generator=g)].float() for _ in range(2))
    draws = torch.rand(rows, 1, generator=g)
    x = torch.where(draws < 1 / 3, one + 0.01 * x, torch.where(draws > 7 / 8, one / 2 + other / 2, x))
    return Problem(shape, codes, x.to(dtype), codebooks, metric)


def wrong_codes(x: Tensor, codebook: Tensor, codes: Tensor, metric: str) -> Tensor:
    """Which of the codes are not the nearest to rows x, as real numbers: bool [rows]."""
    finite, valid = x.isfinite().all(-1), codebook.isfinite().all(-1)
    if not valid.any():
        return codes != 0
    x, codebook = x.double(), codebook.double()
    all_scores = scores(x, codebook, metric)
    length, lengths = x.norm(dim=-1), codebook.norm(dim=-1)
    scale = {"l2": (length + lengths[codes]) ** 2, "cosine": length, "dot": length * lengths[valid].max()}[metric]
    best, chosen = all_scores.min(-1).values, all_scores.gather(-1, codes[:, None])[:, 0]
    far = ~(chosen <= best + scale * x.shape[-1] * 2.0**-50)
    _, same = codebook.unique(dim=0, return_inverse=True)
    first = torch.full((len(codebook),), len(codebook)).scatter_reduce(0, same, torch.arange(len(codebook)), "amin")
    repeated = first[same[codes]] != codes
    return torch.where(finite, far | ~valid[codes] | repeated, codes != 0)


def count_wrong(problem: Problem, codes: Tensor) -> int:
    """How many of the codes [rows, depth] are wrong, each depth given the codes before it."""
    residual, wrong = problem.x.to(torch.promote_types(problem.x.dtype, torch.float32)), 0
    for codebook, code in zip(problem.codebooks, codes.unbind(-1), strict=True):
        wrong += int(wrong_codes(residual, codebook, code, problem.metric).sum())
        residual = residual - codebook[code]
    return wrong


def problems(seed: int, rows: int) -> Iterator[Problem]:
    """Without end: metrics and types in turn, shapes of data drawn."""
    g = torch.Generator().manual_seed(seed)
    shapes, codes = list(SHAPES), list(CODES)
    while True:
        for metric in METRICS:
            for dtype in DTYPES:
                shape, code = (int(torch.randint(n, (), generator=g)) for n in (len(shapes), 2 * len(codes)))
                yield draw(g, shapes[shape], codes[code] if code < len(codes) else codes[0], metric, dtype, rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="searches to check; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    ways = [(isa, filter) for isa in instruction_sets() for filter in FILTERS]
    checked, wrong, examples = Counter[tuple[str, ...]](), Counter[tuple[str, ...]](), 0
    drawn = torch.Generator().manual_seed(options.seed)  # of its own, so that every type meets every way
    for number, problem in enumerate(problems(options.seed, 2000)):
        isa, filter = ways[int(torch.randint(len(ways), (), generator=drawn))]
        with use_instruction_set(isa), use_filters_from(filter):
            codes = ops.residual_quantize(problem.x, problem.codebooks, metric=problem.metric)[1]
        kind = problem.metric, str(problem.x.dtype).removeprefix("torch."), filter
        checked[kind] += codes.numel()
        found = count_wrong(problem, codes)
        wrong[kind] += found
        if found and (examples := examples + 1) <= 20:
            print(f"problem {number} ({problem.shape}, codes {problem.codes}, {isa}, {filter}): {found} wrong codes")
        if sum(checked.values()) >= options.rows:
            break
    for kind in sorted(checked):
        print(f"{kind[0]:7} {kind[1]:9} {kind[2]:8} {checked[kind]:12,} searches {wrong[kind]:6,} wrong")
    print(f"{sum(checked.values()):,} searches, {sum(wrong.values()):,} wrong codes")
    return 1 if sum(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the runs of the study of scaling laws say: laws, the largest run from the others, likelihood against quality."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast.evaluation import ScalingLaw, fit_scaling_law

Point = Mapping[str, Any]
LOSS = "importance_weighted_loss"


def points_of(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A point for each number of steps of each run, with its width, seed, parameters and pictures."""
    return [
        {
            **{"width": entry["width"], "seed": entry["seed"], "pictures": entry["pictures"]},
            **{"parameters": entry["evaluation"]["parameters"], "trained_on": entry["evaluation"]["trained_on"]},
            **point,
        }
        for entry in entries
        for point in entry["evaluation"]["points"]
    ]


def laws_of(points: Sequence[Point], metric: str = LOSS, bootstrap: int = 1000) -> dict[str, Any]:
    """The laws of a metric in parameters, in steps and in pictures, each with the other two at their largest.

    "both" is that in parameters and steps. A law that the runs do not determine is a sentence that says why.
    """
    whole = [point for point in points if not point["pictures"]]
    last, widest = (max(point[name] for point in whole) for name in ("steps", "width"))
    few = [point for point in points if point["pictures"] and point["steps"] == last]
    widths = {point["width"] for point in few}
    all_of_these = [point for point in whole if point["steps"] == last and point["width"] in widths]
    return {
        "parameters": _law([point for point in whole if point["steps"] == last], metric, bootstrap, ["parameters"]),
        "steps": _law([point for point in whole if point["width"] == widest], metric, bootstrap, ["steps"]),
        "pictures": _law([*few, *all_of_these], metric, bootstrap, ["trained_on"]),
        "both": _law(whole, metric, bootstrap, ["parameters", "steps"]),
    }


def _law(points: Sequence[Point], metric: str, bootstrap: int, sizes: Sequence[str]) -> dict[str, Any] | str:
    arguments = {("parameters" if name == "parameters" else "samples"): [p[name] for p in points] for name in sizes}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            law = fit_scaling_law([point[metric] for point in points], bootstrap=bootstrap, **arguments)
            return _described(law, len(sizes))
    except ValueError as error:
        return str(error)


def _described(law: ScalingLaw, terms: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "irreducible": law.irreducible,
        "irreducible_interval": list(law.irreducible_interval),
        "terms": {
            name: {"coefficient": term.coefficient, "exponent": term.exponent, "interval": list(term.interval)}
            for name, term in law.terms.items()
        },
        "warning": law.warning,
    }
    try:
        left = law.left_out()
    except ValueError as error:
        return {**found, "left_out": str(error)}
    off = left.predicted / left.measured - 1
    return {**found, "left_out": {"predicted": left.predicted, "measured": left.measured, "off": off}}


def judges(points: Sequence[Point], resamples: int = 1000) -> dict[str, dict[str, float]]:
    """Spearman's correlation with the kernel distance over all points, of each likelihood, with a 95% interval.

    The interval is of runs drawn with replacement, each with all its points.
    """
    runs: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        runs.setdefault((point["width"], point["seed"], point["pictures"]), []).append(point)
    groups, generator, found = list(runs.values()), torch.Generator().manual_seed(0), {}
    for name in (LOSS, "elbo"):
        drawn = []
        for _ in range(resamples):
            chosen = torch.randint(len(groups), (len(groups),), generator=generator).tolist()
            drawn.append(rank_correlation([point for place in chosen for point in groups[place]], name))
        low, high = torch.tensor(drawn).nanquantile(torch.tensor([0.025, 0.975])).tolist()
        found[name] = {"correlation": rank_correlation(points, name), "low": low, "high": high}
    return found


def rank_correlation(points: Sequence[Point], name: str) -> float:
    """Spearman's, between a measure and the kernel distance; equal values share their mean rank."""
    ranks = torch.stack([_ranks([point[key] for point in points]) for key in (name, "kernel_distance")])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> Tensor:
    numbers = torch.tensor(values, dtype=torch.float64)
    return (numbers[:, None] > numbers).double().sum(1) + 0.5 * (numbers[:, None] == numbers).double().sum(1)


def inversions(points: Sequence[Point]) -> list[str]:
    """Pairs of settings of which one has, in every seed, the lower bound of NLL and the larger kernel distance."""
    settings: dict[str, dict[int, Point]] = {}
    for point in points:
        of = f", {point['pictures']} pictures" if point["pictures"] else ""
        settings.setdefault(f"width {point['width']}, {point['steps']} steps{of}", {})[point["seed"]] = point

    def inverted(one: Mapping[int, Point], other: Mapping[int, Point]) -> bool:
        return one.keys() == other.keys() and all(
            one[seed]["elbo"] < other[seed]["elbo"] and one[seed]["kernel_distance"] > other[seed]["kernel_distance"]
            for seed in one
        )

    pairs = permutations(settings.items(), 2)
    return [f"{a} has the lower NLL, {b} the better pictures" for (a, one), (b, other) in pairs if inverted(one, other)]


def as_text(laws: Mapping[str, Any], correlations: Mapping[str, Mapping[str, float]], swapped: Sequence[str]) -> str:
    """The findings as Markdown."""
    lines = ["# Scaling laws of a small DiT", ""]
    for name, law in laws.items():
        if isinstance(law, str):
            lines.append(f"- **{name}**: not determined: {law}")
            continue
        low, high = law["irreducible_interval"]
        terms = ", ".join(
            f"exponent {term['exponent']:.3f} ({term['interval'][0]:.3f} to {term['interval'][1]:.3f})"
            for term in law["terms"].values()
        )
        left = law["left_out"]
        told = left if isinstance(left, str) else f"the largest run is predicted {100 * left['off']:+.1f}% off"
        lines.append(f"- **{name}**: E = {law['irreducible']:.4g} ({low:.4g} to {high:.4g}), {terms}; {told}")
    lines += ["", "Rank correlation with the kernel distance:", ""]
    lines += [
        f"- {name.replace('_', ' ')}: {one['correlation']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
        for name, one in correlations.items()
    ]
    return (
        "\n".join([*lines, "", f"Inversions that all seeds agree on: {len(swapped)}", "", *(f"- {x}" for x in swapped)])
        + "\n"
    )


def plot(points: Sequence[Point], out: Any) -> None:
    """Draws the loss over parameters and over steps, and the kernel distance over both likelihoods, as a PNG file."""
    whole = [point for point in points if not point["pictures"]]
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    panels = figure.subplots(1, 4)
    axes: tuple[tuple[str, str, Callable[[Point], Any], str], ...] = (
        ("parameters", LOSS, lambda point: point["steps"], "steps"),
        ("steps", LOSS, lambda point: point["width"], "width"),
        (LOSS, "kernel_distance", lambda point: point["width"], "width"),
        ("elbo", "kernel_distance", lambda point: point["width"], "width"),
    )
    for panel, (x, y, group, name) in zip(panels, axes, strict=True):
        for value in sorted({group(point) for point in whole}):
            some = sorted((point for point in whole if group(point) == value), key=lambda point: point[x])
            panel.plot([p[x] for p in some], [p[y] for p in some], "o", markersize=3, label=f"{name} {value}")
        panel.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
        if x in ("parameters", "steps") and all(math.isfinite(p[y]) and p[y] > 0 for p in whole):
            panel.set(xscale="log", yscale="log")
        panel.legend(fontsize=6)
    figure.savefig(out, dpi=110)

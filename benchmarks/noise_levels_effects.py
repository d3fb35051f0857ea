"""What a variant changes against its baseline, seed by seed, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

Entry = Mapping[str, Any]
_STRUCTURE, _DETAIL = (-8.0, -2.0), (-1.0, 4.0)  # of λ, at both ends included


@dataclass(frozen=True)
class Effect:
    """Differences of pairs, one a seed, of logarithms, or of shares of the baseline's value; above 0 is worse."""

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def never(self) -> bool:
        """Whether no variant of any pair came to where its baseline did."""
        return all(math.isinf(one) for one in self.differences)

    @property
    def standard_error(self) -> float:
        """Infinite for a single pair, and where some differences are."""
        count = len(self.differences)
        finite = all(map(math.isfinite, self.differences))
        return stdev(self.differences) / math.sqrt(count) if count > 1 and finite else math.inf

    @property
    def seen(self) -> bool:
        """Whether all differences agree, and their mean exceeds twice its standard error."""
        if len(self.differences) > 1 and self.never:
            return True
        agree = all(one > 0 for one in self.differences) or all(one < 0 for one in self.differences)
        return agree and abs(self.mean) > 2 * self.standard_error


@dataclass(frozen=True)
class Measure:
    """A measure of a run.

    value: of its evaluation. difference: of a variant's evaluation to that of its baseline; by default that of the
    logarithms. logarithm: whether it is one of logarithms, and no share of the baseline's value.
    """

    name: str
    value: Callable[[Entry], float]
    difference: Callable[[Entry, Entry], float]
    logarithm: bool = True

    def text(self, effect: Effect) -> str:
        """An effect as a percentage with its standard error, or "not seen"; a single pair says that it is one."""
        if effect.never:
            return "never" if effect.seen else "one pair: never"
        change = (lambda value: 100 * math.expm1(value)) if self.logarithm else (lambda value: 100 * value)
        if len(effect.differences) == 1:
            return f"one pair: {change(effect.mean):+.0f}%"
        if not effect.seen:
            return "not seen"
        width = effect.standard_error * (math.exp(effect.mean) if self.logarithm else 1)
        return f"**{change(effect.mean):+.0f}%** ± {100 * width:.0f}"


def level_mean(name: str, span: tuple[float, float]) -> Callable[[Entry], float]:
    """The logarithmic mean of an error over the levels in `span`."""

    def mean(found: Entry) -> float:
        errors = zip(found["log_snr"], found[name], strict=True)
        return math.exp(fmean(math.log(error) for level, error in errors if span[0] <= level <= span[1]))

    return mean


def steps_to(found: Entry, loss: float) -> float:
    """The first step at which the curve of `found` is at `loss` or below, between two points of it; else infinity."""
    steps, values = found["curve"]["steps"], found["curve"]["importance_weighted_loss"]
    before = (0, None)
    for step, value in zip(steps, values, strict=True):
        if value <= loss:
            if before[1] is None:
                return float(step)
            share = math.log(before[1] / loss) / math.log(before[1] / value)
            return before[0] + share * (step - before[0])
        before = (step, value)
    return math.inf


def _final(found: Entry) -> float:
    return found["curve"]["importance_weighted_loss"][-1]


def _measure(name: str, value: Callable[[Entry], float]) -> Measure:
    return Measure(name, value, lambda variant, baseline: math.log(value(variant) / value(baseline)))


MEASURES = (
    _measure("low-resolution error, λ −8 to −2", level_mean("low_resolution_error", _STRUCTURE)),
    _measure("error, λ −8 to −2", level_mean("error", _STRUCTURE)),
    _measure("error, λ −1 to 4", level_mean("error", _DETAIL)),
    _measure("importance-weighted loss", lambda found: found["importance_weighted_loss"]),
    Measure(
        "steps to the baseline's final loss",
        lambda found: steps_to(found, _final(found)),
        lambda variant, baseline: math.log(steps_to(variant, _final(baseline)) / steps_to(baseline, _final(baseline))),
    ),
    Measure(
        "kernel distance",
        lambda found: found["kernel_distance"],
        lambda variant, baseline: (
            (variant["kernel_distance"] - baseline["kernel_distance"]) / abs(baseline["kernel_distance"])
        ),
        logarithm=False,
    ),
)
"""The most sensitive first."""


def effects(entries: Sequence[Entry], baselines: Mapping[str, str]) -> dict[str, dict[str, Effect]]:
    """By variant and measure, of the entries of one data set; without baselines themselves, and what has no pair."""
    runs = {(entry["variant"], entry["seed"]): entry["evaluation"] for entry in entries}
    found: dict[str, dict[str, Effect]] = {}
    for variant in dict.fromkeys(entry["variant"] for entry in entries):
        pairs = [
            (evaluation, runs[baselines[variant], seed])
            for (name, seed), evaluation in runs.items()
            if name == variant != baselines[variant] and (baselines[variant], seed) in runs
        ]
        if pairs:
            found[variant] = {one.name: Effect(tuple(one.difference(*pair) for pair in pairs)) for one in MEASURES}
    return found

"""What a claim is, what a measure of it finds, and the verdict that follows from that alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

Kind = Literal["exact", "statistic", "trained"]
Verdict = Literal["supported", "refuted", "open", "misprint", "not measured"]

_ROUNDING = 1e-12  # of a value without an interval, against its bound


class NotMeasured(Exception):
    """What is missing, as a sentence."""


@dataclass(frozen=True)
class Row:
    """One number of a measure: its effect for each seed, and on which side of the bound the claim expects it.

    of: "printed" for a formula as the text has it, "evident" for the one that it means; "size" for a number that was
    quoted from large models, which is judged apart from the direction. A single effect is exact: it has no interval,
    unless the study that measured it has `known` one.
    """

    what: str
    effects: Sequence[float]
    side: Literal["below", "above"]
    bound: float
    of: Literal["claim", "printed", "evident", "size"] = "claim"
    known: tuple[float, float] | None = None

    @property
    def mean(self) -> float:
        return fmean(self.effects)

    @property
    def interval(self) -> tuple[float, float]:
        """95%, by t over the seeds."""
        if self.known is not None:
            return self.known
        if len(self.effects) == 1:
            return self.mean, self.mean
        from scipy.stats import t

        reach = float(t.ppf(0.975, len(self.effects) - 1)) * stdev(self.effects) / math.sqrt(len(self.effects))
        return self.mean - reach, self.mean + reach

    @property
    def verdict(self) -> Literal["supported", "refuted", "open"]:
        low, high = self.interval
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{self.what} must be finite, got {list(self.effects)}")
        slack = _ROUNDING * max(1.0, abs(self.bound)) if low == high else 0.0
        below, above = high <= self.bound + slack, low >= self.bound - slack
        if below and above:
            return "supported"
        if below or above:
            return "supported" if below == (self.side == "below") else "refuted"
        return "open"


@dataclass(frozen=True)
class Result:
    """What became of a claim: the verdict, a sentence that says why, and the rows that were measured.

    size: of what was quoted from large models, "consistent" or "not consistent at this scale"; None where nothing was.
    """

    verdict: Verdict
    reason: str
    rows: tuple[Row, ...] = ()
    size: str | None = None


@dataclass(frozen=True)
class Claim:
    """A claim of the texts, by its number.

    source: text:line; text: the claim in a line; kind: what a measure of it needs; refuted_if, needs: in words.
    measure: () → the rows; it raises `NotMeasured` where something is missing, and a claim without one is not measured.
    planted: the same measure of a world in which the claim is false, which every exact claim has: it must be refuted
    there.
    """

    number: int
    source: str
    text: str
    kind: Kind
    refuted_if: str
    needs: str = ""
    measure: Callable[[], Sequence[Row]] | None = None
    planted: Callable[[], Sequence[Row]] | None = None


def judged(claim: Claim, measure: Callable[[], Sequence[Row]] | None = None) -> Result:
    """The verdict on a claim, by its own measure or by another one."""
    measure = measure or claim.measure
    if measure is None:
        return Result("not measured", f"no measure is written: it needs {claim.needs}")
    try:
        rows = tuple(measure())
    except NotMeasured as missing:
        return Result("not measured", str(missing))
    of_claim = [row for row in rows if row.of != "size"]
    sizes = [row for row in rows if row.of == "size"]
    size = None
    if sizes:
        size = "consistent" if all(row.verdict == "supported" for row in sizes) else "not consistent at this scale"
    if not of_claim:
        return Result("open", f"only a size was quoted: {_told(sizes[0])}", rows, size)
    return Result(*_verdict(of_claim), rows, size)


def _verdict(rows: Sequence[Row]) -> tuple[Verdict, str]:
    printed = [row for row in rows if row.of == "printed"]
    if printed:
        wrong = any(row.verdict == "refuted" for row in printed)
        meant = all(row.verdict == "supported" for row in rows if row.of == "evident")
        if wrong and meant:
            return "misprint", f"as printed, {_told(next(row for row in printed if row.verdict == 'refuted'))}"
    for verdict in ("refuted", "open"):
        for row in rows:
            if row.verdict == verdict:
                return verdict, _told(row)  # type: ignore[return-value]
    return "supported", _told(rows[0])


def _told(row: Row) -> str:
    low, high = row.interval
    interval = "" if low == high else f" ({low:.3g} to {high:.3g})"
    return f"{row.what}: {row.mean:.3g}{interval}, expected {row.side} {row.bound:.3g}"

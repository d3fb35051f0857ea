"""What a study's votes say, as files and as lines of text."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..ratings import Vote, agreement, bradley_terry, cycles
from .votes import Row, Votes

_COLUMNS = ("id", "rater", "pair", "left", "right", "choice", "time")


def results_of(votes: Votes) -> dict[str, Any]:
    """Ratings of the sets, best first, and how far raters can be trusted; ValueError where nobody has chosen yet."""
    rows = votes.standing()
    given = [Vote(row.left, row.right, row.choice, row.rater, row.pair) for row in rows if row.choice != "skip"]
    rated, agreed = bradley_terry(given), agreement(given)
    names = sorted(rated.elo, key=lambda name: -rated.elo[name] if math.isfinite(rated.elo[name]) else math.inf)
    unseen = [name for name in votes.content["sets"] if name not in rated.elo]
    sets = [
        {
            "name": name,
            "elo": _number(rated.elo[name]),
            "low": _number(rated.intervals[name][0]),
            "high": _number(rated.intervals[name][1]),
            "ranks": list(rated.ranks[name]),
        }
        for name in names
    ]
    return {
        "question": votes.content["question"],
        "votes": len(given),
        "skipped": len(rows) - len(given),
        "raters": len({vote.rater for vote in given}),
        "sets": sets,
        "left_share": rated.left_share,
        "left_interval": [_number(end) for end in rated.left_interval],
        "agreement": {"between": _number(agreed.between), "within": _number(agreed.within)},
        "cycles": [list(circle) for circle in cycles(given)],
        "notes": [*rated.notes, *(f"{name} has no votes yet" for name in unseen)],
    }


def write(found: dict[str, Any], rows: list[Row], out: Path) -> None:
    """Writes results.json, votes.csv and ratings.png into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with open(out / "votes.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(row) for row in rows)
    _plot(found, out / "ratings.png")


def as_text(found: dict[str, Any]) -> str:
    """The results for a terminal: a line a set, best first."""
    lines = [("set", "Elo", "95% interval", "rank")]
    for each in found["sets"]:
        low, high = each["ranks"]
        told = each["elo"] is not None
        interval = f"{each['low']:.0f} to {each['high']:.0f}" if told and each["low"] is not None else "–"
        elo = f"{each['elo']:.0f}" if told else "–"
        lines.append((each["name"], elo, interval, f"{low}" if low == high else f"{low} to {high}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    agreed = {kind: "–" if share is None else f"{share:.0%}" for kind, share in found["agreement"].items()}
    return "\n".join(
        [
            *table,
            f"{found['votes']} votes of {found['raters']} raters, and {found['skipped']} skipped",
            f"the left picture was chosen in {found['left_share']:.0%}",
            f"two raters agree in {agreed['between']} of cases, a rater with itself in {agreed['within']}",
            *(f"no order can show this: {' beats '.join((*circle, circle[0]))}" for circle in found["cycles"]),
            *found["notes"],
        ]
    )


def _plot(found: dict[str, Any], path: Path) -> None:
    sets = [each for each in found["sets"] if each["low"] is not None][::-1]
    figure = Figure(figsize=(7, 1.2 + 0.4 * max(len(sets), 1)), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(sets):
        reach = (each["high"] - each["low"]) / 2
        axes.errorbar(each["elo"], place, xerr=reach, fmt="o", color="#0b6e4f", capsize=4)
    names = [each["name"] for each in sets]
    axes.set_yticks(range(len(sets)), [name if len(name) <= 40 else f"…{name[-39:]}" for name in names])
    axes.set(xlabel="Elo, with 95% intervals by rater", title=f"{found['votes']} votes of {found['raters']} raters")
    axes.margins(y=0.2)
    figure.savefig(path, dpi=120)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None

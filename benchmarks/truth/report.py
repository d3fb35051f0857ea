"""The truth report as results.json, table.md, a figure a claim, and a part of a page in docs/."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..studies import write
from ..table import as_markdown
from .claim import Claim, Result

_VERDICTS = ("supported", "refuted", "open", "misprint", "not measured")
_KINDS = ("exact", "statistic", "trained")
_COLOURS = {"supported": "#0b6e4f", "refuted": "#c44536", "open": "#8d99ae"}
Judged = Sequence[tuple[Claim, Result]]


def write_report(head: Mapping[str, Any], judged: Judged, out: Path) -> None:
    """Writes the report of claims and their results into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    claims = [_as_json(claim, result) for claim, result in judged]
    write(out / "results.json", {**head, "claims": claims})
    (out / "table.md").write_text(f"# The claims of the texts\n\n{_table(claims)}\n")
    for claim, result in judged:
        if result.rows:
            plot(claim, result, out / f"claim-{claim.number}.png")


def _as_json(claim: Claim, result: Result) -> dict[str, Any]:
    measured = [
        {
            **{"what": row.what, "of": row.of, "effects": [float(f"{one:.6g}") for one in row.effects]},
            **{"interval": [float(f"{end:.6g}") for end in row.interval], "expected": row.side, "bound": row.bound},
            "verdict": row.verdict,
        }
        for row in result.rows
    ]
    return {
        **{"claim": claim.number, "source": claim.source, "text": claim.text, "kind": claim.kind},
        **{"verdict": result.verdict, "size": result.size, "measured": measured, "reason": result.reason},
        "refuted_if": claim.refuted_if,
    }


def _table(claims: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            *(str(claim["claim"]), claim["source"], _plain(claim["text"]), claim["kind"]),
            f"**{claim['verdict']}**" + (f"; size {claim['size']}" if claim["size"] else ""),
            _plain(claim["reason"]),
        ]
        for claim in claims
    ]
    return as_markdown(["#", "source", "claim", "kind", "verdict", "because"], rows)


def _plain(text: str) -> str:
    """A text in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def counts(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims of each kind have which verdict."""
    found = Counter((claim["kind"], claim["verdict"]) for claim in claims)
    rows = [[kind, *(str(found[kind, verdict]) for verdict in _VERDICTS)] for kind in _KINDS]
    return as_markdown(["claims", *_VERDICTS], rows)


def block(results: Path, page: Path) -> str:
    """A page's part of what `write_report` stored as `results`; "" without results."""
    if not results.exists():
        return ""
    stored = json.loads(results.read_text())
    measured = [claim for claim in stored["claims"] if claim["verdict"] != "not measured"]
    rest = len(stored["claims"]) - len(measured)
    more = f"\n\n{rest} claims are not measured yet; `benchmarks/results/truth/table.md` says what each of them needs."
    return f"{counts(stored['claims'])}\n\n{_table(measured)}{more if rest else ''}\n"


def plot(claim: Claim, result: Result, out: Path) -> None:
    """Draws every row of a claim, its effects and their interval against the bound, as the PNG file `out`."""
    figure = Figure(figsize=(6.4, 0.7 + 0.9 * len(result.rows)), layout="constrained")
    panels = figure.subplots(len(result.rows), 1, squeeze=False)[:, 0]
    figure.suptitle(f"{claim.number}. {claim.text[:90]}: {result.verdict}", fontsize=9)
    for axes, row in zip(panels, result.rows, strict=True):
        low, high = row.interval
        colour = _COLOURS[row.verdict]
        span = [row.bound, low, high, *row.effects]
        margin = 0.15 * (max(span) - min(span)) or 1.0
        left, right = min(span) - margin, max(span) + margin
        axes.axvspan(*((left, row.bound) if row.side == "below" else (row.bound, right)), color="#0b6e4f", alpha=0.08)
        axes.axvline(row.bound, color="#222222", linewidth=0.8)
        axes.plot([low, high], [0, 0], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(row.effects, [0] * len(row.effects), "o", color=colour, markersize=5)
        axes.set(xlim=(left, right), ylim=(-1, 1), yticks=[])
        axes.set_title(row.what, fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
    figure.savefig(out, dpi=110)

"""Measured cases as lines of text, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = ("", "cold ms", "warm ms", "peer", "floor", "error", "memory MB", "page faults")


def rows(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row a contender, in the order of COLUMNS."""
    return [
        (
            name + (" (peer)" if entry["peer"] else ""),
            milliseconds(entry["cold"]["median"]),
            milliseconds(entry["warm"]["median"]),
            f"{entry['times_faster_than_best_peer']:.2f}×",
            f"{entry['times_floor']:.2f}×",
            "–" if entry["error"] is None else f"{entry['error']:.1e}",
            f"{entry['peak_bytes'] / 1e6:.1f}",
            f"{entry['cold']['page_faults']:.0f}",
        )
        for name, entry in case["entries"].items()
    ]


def as_text(case: Mapping[str, Any]) -> str:
    """A case as aligned columns under its name and floor."""
    floor, memory = milliseconds(case["floor_seconds"]), milliseconds(case["memory_floor_seconds"])
    head = f"{case['name']}: floor {floor} ms (memory {memory} ms), {case['sets']} sets"
    return "\n".join([head, *_aligned([COLUMNS, *rows(case)]), *_aligned(details(case))])


def details(case: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A header and one row for each further number of a case, by contender; empty where there are none."""
    found = case.get("details", {})
    names = list(case["entries"])
    body = [(what, *(f"{of[name]:.3g}" if name in of else "–" for name in names)) for what, of in found.items()]
    return [("", *names), *body] if body else []


def as_markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *body])


def ceilings_text(ceilings: Mapping[str, Any]) -> str:
    """The machine's ceilings in one line."""
    matmul = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in ceilings["matmul_flops"].items())
    return (
        f"copy {ceilings['copy_bytes'] / 1e9:.1f} GB/s ({ceilings['copy_method']}), "
        f"{ceilings['multiply_adds'] / 1e9:,.0f} G multiply-adds/s, matrix products in GFLOP/s: {matmul}"
    )


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    if not table:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  "
        + row[0].ljust(widths[0])
        + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in table
    ]


def milliseconds(seconds: float) -> str:
    """Three digits, or all those before the point."""
    return f"{seconds * 1e3:.3g}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"

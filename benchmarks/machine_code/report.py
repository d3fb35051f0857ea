"""The results as tables, for the terminal and the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..table import as_markdown
from .throughput import DEVICES


def rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each case: issue slots of both architectures, bytes, and for each device limit and share."""
    body = []
    for result in results:
        found = result["architectures"]
        slots = [_slots(found.get(architecture, {})) for architecture in ("sm_80", "sm_90")]
        moved = next((entry["bytes"]["memory"] for entry in found.values() if "bytes" in entry), None)
        cells = [_cell(found.get(device.runs, {}), device.name) for device in DEVICES]
        body.append((result["case"], *slots, "–" if moved is None else number(moved, 3), *cells))
    return body


def number(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"


def _slots(found: Mapping[str, Any]) -> str:
    if "issue slots" not in found:
        return "cannot tell" if found else "–"
    return number(found["issue slots"]) + (" (spills)" if found["spills"] else "")


def _cell(found: Mapping[str, Any], device: str) -> str:
    if "bounds" not in found:
        return "–"
    bound = found["bounds"][device]
    share = f"{100 * bound['share of copy']:.0f}%"
    if "share of tensor peak" in bound:
        share = f"{share} / {100 * bound['share of tensor peak']:.1f}%"
    return f"**{share}**" if bound["limit"] == "memory" else f"{share} {bound['limit']}"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    header = ("case", "slots, 8.0", "slots, 9.0", "bytes", *(device.name for device in DEVICES))
    return as_markdown(header, rows(results))


def load(folder: Path) -> list[dict[str, Any]]:
    """The results of all families that a folder holds."""
    files = sorted(file for file in folder.glob("*.json") if file.name != "budget.json")
    return [result for file in files for result in json.loads(file.read_text())]


def block(path: Path, page: Path) -> str:
    """What `benchmarks.tables` writes, from the folder that `path` is in."""
    return f"{table(load(path.parent))}\n"

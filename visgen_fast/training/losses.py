"""losses.csv, as it is read again."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 10_000


def read_losses(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of `path` that have a step and numbers in all of `columns`, the first of which is "step".

    What is no such row is left out: one cut short by a kill, or anything else that got into the file.
    """
    if not path.is_file():
        return []
    # NUL is no text to older versions of the module csv.
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\0", "\ufffd").splitlines()
    rows = csv.DictReader((line for line in lines if len(line) < _LONGEST), quoting=csv.QUOTE_NONE)
    return [{name: row[name] for name in columns} for row in rows if _is_whole(row, columns)]


def _is_whole(row: dict[str, str], columns: Sequence[str]) -> bool:
    try:
        numbers = [float(row[name]) for name in columns]
        return None not in row and row["step"].isascii() and row["step"].isdigit() and numbers[0] < 2**63
    except (KeyError, TypeError, ValueError):
        return False

"""`visgen-fast bench`: runs the benchmarks of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..errors import UserError


def bench(arguments: list[str]) -> int:
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        # Another project's folder may have benchmarks too.
        parts = ("benchmarks/__main__.py", "visgen_fast", "csrc")
        if all((folder / part).exists() for part in parts):
            return subprocess.call([sys.executable, "-m", "benchmarks", *arguments], cwd=folder)
    raise UserError("the benchmarks are part of the repository, not of the package: run this in a checkout")

"""Bounds from machine code, without a GPU: `python -m benchmarks.machine_code [FAMILY …]`.

Each case is an operation's call. The emulation of CUDA says which kernels it launches, with which arguments; the
library's machine code of these kernels is then run in their place, thread by thread, and counted. Written are
benchmarks/results/machine_code/FAMILY.json and the budget; with --check nothing is written, and exit code 1 says that a
kernel needs more than its budget, or that machine code and emulation disagree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import budget, heads
from .cases import CASES, units_of
from .examine import examine
from .launches import ROOT, Emulation
from .report import table

LIBRARY = ROOT / "visgen_fast" / "lib" / "libvisgen_fast_cuda.so"
ARCHITECTURES = ("sm_80", "sm_90")


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts, compares, and writes what the options ask for."""
    options = _parse(arguments)
    granted = json.loads(budget.FILE.read_text()) if budget.FILE.exists() else {}
    if options.heads:
        for family in options.family:
            heads.write(family, units_of(family), granted)
        return 0
    emulation, complaints = Emulation(), []
    for family in options.family:
        results = []
        for case in CASES:
            if case.family == family and (options.case or "") in case.name:
                listing: list[str] = []
                results.append(examine(case, emulation, options.library, ARCHITECTURES, listing))
                if options.listing:
                    print("\n".join([case.name, *listing]))
                complaints += _compare(results[-1], granted)
        print(table(results) + "\n", flush=True)
        if not options.check:
            _write(family, results, granted)
    print("\n".join(complaints))
    return int(options.check and bool(complaints))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    families = sorted({case.family for case in CASES})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine_code", description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", help=f"one or more of {', '.join(families)}; all by default")
    parser.add_argument("--case", help="with --check: only the cases whose name holds this")
    parser.add_argument("--check", action="store_true", help="compare with the budget, and write nothing")
    parser.add_argument("--listing", action="store_true", help="also print each instruction with its issue slots")
    parser.add_argument("--heads", action="store_true", help="only write the budget's numbers into csrc/cuda/FAMILY.cu")
    parser.add_argument("--library", type=Path, default=LIBRARY, metavar="FILE", help="a compiled CUDA library")
    options = parser.parse_args(arguments)
    if unknown := set(options.family) - set(families):
        parser.error(f"family must be of {', '.join(families)}, got {', '.join(sorted(unknown))}")
    if not options.library.is_file():
        parser.error(f"--library must be a compiled CUDA library, got {options.library}")
    if options.case and not options.check:
        parser.error("--case goes with --check: a family's results are written whole")
    options.family = options.family or families
    return options


def _compare(result: Mapping[str, Any], granted: dict[str, dict[str, Any]]) -> list[str]:
    """What is beyond the budget, which afterwards holds what was found."""
    case, complaints = result["case"], []
    for architecture, found in result["architectures"].items():
        due = granted.get(case, {}).get(architecture, {"cannot tell": "not in the budget"})
        complaints += budget.excesses(case, architecture, found, due)
        granted.setdefault(case, {})[architecture] = budget.entry(found)
    return complaints


def _write(family: str, results: Sequence[Mapping[str, Any]], granted: Mapping[str, Any]) -> None:
    known = {name: entry for name, entry in granted.items() if any(case.name == name for case in CASES)}
    budget.FILE.parent.mkdir(parents=True, exist_ok=True)
    for file, content in ((budget.FILE.with_name(f"{family}.json"), results), (budget.FILE, known)):
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=file == budget.FILE) + "\n")


if __name__ == "__main__":
    sys.exit(main())

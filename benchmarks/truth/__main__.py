"""`python -m benchmarks.truth [CLAIM…]` measures the claims of the texts that this library was made from.

Verdicts follow from the numbers alone: a claim is supported where the whole 95% interval of its effect lies on the
expected side of the bound, refuted where it lies on the other side, and open where it holds the bound. Exact claims
take seconds; those of known distributions a minute, and are kept by what they were measured with; the others read the
results of the studies in benchmarks/results, and nothing is trained here.

Writes results.json, table.md and a figure for each claim that was measured into the folder of the report.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from ..machine import describe, provenance
from ..studies import RESULTS, ROOT, read, write
from . import checkpoints, exact_codes, exact_lecture, exact_likelihood, statistic, stored, unmeasured
from .claim import Claim, Result, Row, judged
from .report import counts, write_report

CLAIMS = sorted(
    (
        *(exact_codes.CLAIMS + exact_likelihood.CLAIMS + exact_lecture.CLAIMS),
        *(statistic.CLAIMS + checkpoints.CLAIMS + stored.CLAIMS + unmeasured.CLAIMS),
    ),
    key=lambda claim: claim.number,
)
"""All of them, by their numbers."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.truth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("claims", nargs="*", help="their numbers; all by default")
    parser.add_argument("--kind", choices=["exact", "statistic", "trained"], help="those of one kind alone")
    parser.add_argument("--out", type=Path, help="folder of the report; by default that of all claims, or build/truth")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "truth", help="where measures are kept")
    options = parser.parse_args(arguments)
    by_number = {str(claim.number): claim for claim in CLAIMS}
    for number in options.claims:
        if number not in by_number:
            parser.error(f"there is no claim {number}; they have the numbers 1 to {CLAIMS[-1].number}")
    torch.set_num_threads(1)
    chosen = [by_number[number] for number in options.claims] or CLAIMS
    found = []
    for claim in chosen:
        if options.kind in (None, claim.kind):
            result = _kept(claim, options.runs) if claim in statistic.CLAIMS else judged(claim)
            found.append((claim, result))
            if result.verdict != "not measured":
                print(f"{claim.number:>3} {result.verdict}: {claim.text} ({result.reason})", flush=True)
    head = {"study": "truth", **provenance(describe("cpu"))}
    out = options.out or (RESULTS / "truth" if len(found) == len(CLAIMS) else ROOT / "build" / "truth" / "report")
    write_report(head, found, out)
    print(f"\n{counts([{'kind': claim.kind, 'verdict': result.verdict} for claim, result in found])}")
    print(f"written to {out}")
    return 0


def _kept(claim: Claim, folder: Path) -> Result:
    """The verdict on a claim whose rows are kept by the source of its measure."""
    if claim.measure is None:
        return judged(claim)
    module = sys.modules[claim.measure.__module__]
    settings = f"{claim.number} {inspect.getsource(module)} {torch.__version__}"
    file = folder / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        write(file, [asdict(row) for row in claim.measure()])
    return judged(claim, partial(list, [Row(**row) for row in read(file)]))


if __name__ == "__main__":
    raise SystemExit(main())

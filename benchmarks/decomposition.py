"""What the order of codes costs: `python -m benchmarks.decomposition PART` trains models of codes, and measures them.

Parts: `position` (one network in five orders at equal steps: bits, and by place), `depth` (residual codes 4, 8 and 16
deep: bits by depth, and those spent on codes that add nothing), `bits` (LFQ from 4 to 14 bits: reconstruction against
modelling) and `planes` (the bits of pixels by plane, 5 against 8). Without a part, all of them. Three seeds each. Runs
are kept in a folder of their own: an interrupted study goes on where it was when the same command is given again. One
process and thread a training.

Written to benchmarks/results/decomposition/PART: table.md with the verdict, results.json, and a figure.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from . import studies
from .machine import describe, provenance
from .trainings import train_all

PARTS = ("position", "depth", "bits", "planes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, then writes the reports; 1 if a training failed, 2 for an unknown part."""
    parser = studies.parser("decomposition", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind; default: 3")
    parser.add_argument("--pictures", type=int, default=1000, help="that are measured; default: 1000")
    parser.add_argument("--short", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        print(f"benchmarks.decomposition: a part must be one of {', '.join(PARTS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    failed = 0
    for name in options.parts or PARTS:
        part = importlib.import_module(f"{__package__}.decomposition_{name}")
        folder, out = options.runs / name, options.out / name
        left = train_all(part.stages(folder, options.seeds, options.short), folder, options.jobs)
        failed += left
        if not left:
            out.mkdir(parents=True, exist_ok=True)
            entries = part.report(folder, out, options.seeds, options.pictures, options.short)
            studies.write_results(out / "results.json", {"study": name, **provenance(describe("cpu"))}, entries)
            print((out / "table.md").read_text())
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

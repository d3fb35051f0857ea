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
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import studies
from .machine import describe, provenance

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


def train_all(stages: Iterable[Mapping[str, Sequence[str]]], folder: Path, jobs: int) -> int:
    """Trains command lines by name, a stage after the other, unless they are trained; how many failed.

    A stage may need what those before have trained.
    """
    began = time.monotonic()
    for stage in stages:
        wanted = {name: [*words, "--sample-every=0", f"--out={folder / name}"] for name, words in stage.items()}
        missing = [name for name in wanted if studies.read(folder / f"{name}.json") != wanted[name]]
        failed = 0
        with studies.jobs(jobs) as pool:
            work = lambda name, wanted=wanted: _train(folder, name, wanted[name])  # noqa: E731
            for name, complaint in studies.finished(pool, work, missing):
                print(f"{time.monotonic() - began:6.0f} s  {name}: {complaint or 'trained'}", flush=True)
                failed += complaint is not None
        if failed:
            return failed
    return 0


def _train(folder: Path, name: str, words: Sequence[str]) -> str | None:
    """Trains by a command line, from where a run of the same one stopped; what went wrong, if anything did."""
    begun = folder / f".{name}.json"
    if studies.read(begun) != words:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / f"{name}.measured.json").unlink(missing_ok=True)
        studies.write(begun, words)
    command = [sys.executable, "-m", "visgen_fast", "train", *words, "--device=cpu", "--resume"]
    _, complaint = studies.run_logged(command, folder / f"{name}.log")
    if complaint is None:
        studies.write(folder / f"{name}.json", words)
    return complaint


if __name__ == "__main__":
    sys.exit(main())

"""What learned paths, flows and energies are worth: `python -m benchmarks.paths PART` trains and measures.

Parts: `plane` (a flow from eight Gaussians to two moons, on independent pairs and on optimal ones: the energy of its
path beside the squared Wasserstein distance), `gaussians` (Schrödinger bridges of Gaussians in 1, 5 and 20 dimensions,
whose covariance is known), `mixture` (energies of a mixture in the plane, whose density is known), `bridges` (one class
of digits turned into another and back, judged by a classifier), `energies` (digits drawn from energies, and from sums
of two classes'), `flows` (Real NVP, TarFlow and diffusion models of the same size after the same time: bits per
dimension and Fréchet distance) and `subtasks` (whether the times of a path are in each other's way, for fixed and
learned paths). Without a part, all of them. Runs are kept in a folder of their own: an interrupted study goes on where
it was when the same command is given again. One process and thread a training.

Written to benchmarks/results/paths/PART: table.md with the verdict, results.json, and a figure.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import studies
from .machine import describe, provenance

PARTS = ("plane", "gaussians", "mixture", "bridges", "energies", "flows", "subtasks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing, then writes the reports; 1 if a training failed, 2 for an unknown part."""
    import torch  # not for a page's tables

    parser = studies.parser("paths", __doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    add("--seeds", type=int, default=3, help="trainings of each kind of the parts plane, gaussians, mixture, subtasks")
    add("--steps", type=int, default=2000, help="of each training of the parts bridges and energies")
    add("--minutes", type=float, default=5.0, help="of each training of the part flows")
    add("--dataset", default="digits", help="of the part flows; default: digits")
    add("--pictures", type=int, default=200, help="drawn to measure a set, of each class; default: 200")
    add("--short", action="store_true", help="a few steps of everything, to see that it runs")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        print(f"benchmarks.paths: a part must be one of {', '.join(PARTS)}, got {unknown[0]}", file=sys.stderr)
        return 2
    failed = 0
    for name in options.parts or PARTS:
        part = importlib.import_module(f"{__package__}.paths_{name}")
        folder, out = options.runs / ("short" if options.short else "") / name, options.out / name
        left = part.train(folder, options)
        failed += left
        if not left:
            out.mkdir(parents=True, exist_ok=True)
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            entries = part.report(folder, out, options)
            torch.set_num_threads(threads)
            head = {"study": "paths", "part": name, **provenance(describe("cpu"))}
            studies.write_results(out / "results.json", head, entries)
            print((out / "table.md").read_text(), flush=True)
    return int(failed > 0)


def block(path: Path, page: Path) -> str:
    """What a page says of a part, whose results are at `path`: verdict, table and figure; "" where there are none."""
    if not path.exists():
        return ""
    head, folder = studies.read(path), path.parent
    _, _, table = (folder / "table.md").read_text().partition("\n\n")
    title = (folder / "table.md").read_text().partition("\n")[0].removeprefix("# ")
    figure = Path(os.path.relpath(folder / f"{folder.name}.png", page.parent)).as_posix()
    made = f"`python -m benchmarks.paths {folder.name}`, commit {head['commit']}, {head['date'][:10]}."
    return f"{table}\n![{title}]({figure})\n\n{made}\n"


if __name__ == "__main__":
    sys.exit(main())

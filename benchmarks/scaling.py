"""How a small DiT's loss falls with its parameters, its steps and its pictures: `python -m benchmarks.scaling`.

Widths × steps × seeds of one DiT, with a learning rate that stays, so that one run gives all its numbers of steps; and
one width on fewer pictures. Each is measured on held-out images by the importance-weighted loss on one grid of λ, by
the bound of its likelihood, and by the kernel distance of what it draws. Then laws in parameters, in steps and in
pictures, each with the others at their largest; the largest run as the others predict it; and how well likelihoods rank
the runs by quality. Runs are kept, and the same command goes on after an interruption. One process and thread a run.

Written to benchmarks/results/scaling: results.json after every run, then table.md and laws.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import studies
from .machine import describe, provenance
from .scaling_laws import as_text, inversions, judges, laws_of, plot, points_of
from .scaling_run import Task, images_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes the report of all that there is; 1 if anything failed or is missing."""
    options = _options(arguments)
    tasks = _tasks(options)
    began, done = time.monotonic(), 0
    try:
        with studies.jobs(options.jobs) as pool:
            for batch in (tasks[:1], tasks[1:]):
                for task, complaint in studies.finished(pool, lambda task: _run(task, options), batch):
                    print(f"{time.monotonic() - began:6.0f} s  {task}: {complaint or 'done'}", flush=True)
                    done += complaint is None
    finally:
        entries = [_entry(task, options) for task in tasks[1:] if _finished(task, options)]
        if entries:
            _report(entries, options)
    return int(done < len(tasks))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = studies.parser("scaling", __doc__)
    add = parser.add_argument
    add("--dataset", choices=["digits", "fashion-mnist"], default="fashion-mnist")
    add("--widths", nargs="+", type=int, default=[16, 32, 48, 64, 96], help="of the network, multiples of 16")
    add("--steps", nargs="+", type=int, default=[100, 200, 400, 800, 1600], help="after which a run is measured")
    add("--seeds", type=int, default=2)
    add("--pictures", nargs="*", type=int, default=[250, 1000, 4000], help="that the middle width is trained on, too")
    add("--measured", type=int, default=512, help="held-out pictures")
    add("--samples", type=int, default=500, help="drawn for the kernel distance")
    add("--bootstrap", type=int, default=1000, help="refits for the intervals")
    options = parser.parse_args(arguments)
    if min(options.widths) < 1 or any(width % 16 and width > 16 for width in options.widths):
        parser.error(f"--widths must be multiples of 16, or below it, got {options.widths}")
    least = {"steps": min(options.steps), "seeds": options.seeds, "pictures": min(options.pictures, default=1)}
    for name, value in {**least, "measured": options.measured, "samples": options.samples - 1}.items():
        if value < 1:
            parser.error(f"--{name} must be at least {2 if name == 'samples' else 1}")
    return options


def _tasks(options: argparse.Namespace) -> list[Task]:
    """First the network of the features, then the runs, a seed finished before the next."""
    common: dict[str, Any] = {
        **{"dataset": options.dataset, "steps": tuple(sorted(set(options.steps)))},
        **{"measured": options.measured, "samples": options.samples},
    }
    tasks = [Task(width=0, seed=0, pictures=0, **common)]
    middle, most = sorted(options.widths)[len(options.widths) // 2], len(images_of(options.dataset)[0])
    for seed in range(options.seeds):
        tasks += [Task(width=width, seed=seed, pictures=0, **common) for width in options.widths]
        tasks += [Task(width=middle, seed=seed, pictures=few, **common) for few in options.pictures if few < most]
    return tasks


def _file(task: Task, options: argparse.Namespace) -> Path:
    name = f"width-{task.width}-pictures-{task.pictures}-seed-{task.seed}" if task.width else "features"
    return options.runs / task.dataset / f"{name}.json"


def _finished(task: Task, options: argparse.Namespace) -> bool:
    return studies.read(_file(task, options)).get("task") == json.loads(json.dumps(asdict(task)))


def _run(task: Task, options: argparse.Namespace) -> str | None:
    """Trains and measures, if that is not done; what went wrong, if anything did."""
    if _finished(task, options):
        return None
    file = _file(task, options)
    command = [sys.executable, "-m", "benchmarks.scaling_run", json.dumps(asdict(task)), str(file.resolve())]
    return studies.run_logged(command, file.with_suffix(".log"))[1]


def _entry(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    return {**asdict(task), "steps": list(task.steps), "evaluation": studies.read(_file(task, options))["evaluation"]}


def _report(entries: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    points = points_of(entries)
    laws, correlations, swapped = (
        laws_of(points, bootstrap=options.bootstrap),
        judges(points, options.bootstrap),
        inversions(points),
    )
    head = {"study": "scaling", **provenance(describe("cpu"))}
    head |= {"laws": laws, "judges": correlations, "inversions": swapped}
    studies.write_results(options.out / "results.json", head, entries)
    text = as_text(laws, correlations, swapped)
    (options.out / "table.md").write_text(text)
    plot(points, options.out / "laws.png")
    print(f"{text}written to {options.out}")


if __name__ == "__main__":
    raise SystemExit(main())

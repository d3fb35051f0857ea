"""What schedules, weights and losses do at high resolution: `python -m benchmarks.noise_levels` trains and measures.

On each data set every variant is trained alike, from the same first weights, on the same images in the same order with
the same noise, and measured alike: at the same levels of λ, with the same noise, along the same sampling steps. Each
seed is a pair of a variant and its baseline. A finished run is kept: an interrupted study goes on with the runs that
are missing when the same command is given again. One process and thread a job.

Written to benchmarks/results/noise_levels: results.json after every run, then table.md and images of each data set.
With --preset gpu: 128² and 256² crops of large photographs, a U-ViT in bfloat16, one job; into noise_levels_gpu.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import studies
from .machine import describe, provenance
from .noise_levels_presets import LARGE_PHOTOGRAPHS, PRESETS, changed
from .noise_levels_report import write_report
from .noise_levels_run import Task
from .noise_levels_variants import VARIANTS, file_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes the report of all that there is; 1 if anything failed or is missing."""
    options = _options(arguments)
    networks, tasks = _tasks(options)
    began, done = time.monotonic(), 0
    try:
        with studies.jobs(options.jobs) as pool:
            for batch in (networks, tasks):
                for task, complaint in studies.finished(pool, lambda task: _run(task, options), batch):
                    print(f"{time.monotonic() - began:6.0f} s  {task}: {complaint or _line(task, options)}", flush=True)
                    done += complaint is None
                    _store(tasks, options)
    finally:
        if entries := _store(tasks, options):
            write_report(entries, _descriptions(), options.out, options.runs / options.preset)
            print(f"written to {options.out}")
    return int(done < len(networks) + len(tasks))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = studies.parser("noise_levels", __doc__)
    parser.set_defaults(out=None)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="cpu")
    add("--datasets", nargs="+", choices=[name for preset in PRESETS.values() for name in preset], help="default: all")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all of the data set's")
    add("--seeds", type=int, help="pairs of runs; default: 3, with --preset gpu 1")
    add("--steps", type=int, help="of each training; default: 800")
    add("--pictures", type=int, help="held out and measured at every level; default: 512")
    add("--samples", type=int, help="drawn from each run for the kernel distance; default: 1000")
    add("--data", type=Path, default=LARGE_PHOTOGRAPHS, help="folder of large photographs, with --preset gpu")
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    options.datasets = options.datasets or list(preset)
    for name in options.datasets:
        if name not in preset:
            parser.error(f"--datasets of the preset {options.preset} are {', '.join(preset)}, got {name}")
    for name, least in (("seeds", 1), ("steps", 1), ("pictures", 2), ("samples", 2), ("jobs", 1)):
        if (value := getattr(options, name)) is not None and value < least:
            parser.error(f"--{name} must be at least {least}, got {value}")
    if options.preset == "gpu":
        options.jobs = 1
    options.out = options.out or studies.RESULTS / ("noise_levels" if options.preset == "cpu" else "noise_levels_gpu")
    return options


def _tasks(options: argparse.Namespace) -> tuple[list[Task], list[Task]]:
    """For each data set the network whose features are compared, and the runs; a seed is finished before the next."""
    networks, tasks = [], []
    for dataset in options.datasets:
        chosen = PRESETS[options.preset][dataset]
        setting = changed(chosen, **{n: getattr(options, n) for n in ("seeds", "steps", "pictures", "samples")})
        common = {"steps": setting.steps, "pictures": setting.pictures, "samples": setting.samples}
        common |= {"preset": options.preset, "dataset": dataset}
        common |= {"data": str(options.data.resolve()) if options.preset == "gpu" else ""}
        networks.append(Task(variant="", seed=0, **common))
        names = [name for name in setting.variants if name in options.variants]
        tasks += [Task(variant=name, seed=seed, **common) for seed in range(setting.seeds) for name in names]
    return networks, sorted(tasks, key=lambda task: task.seed)


def _file(task: Task, options: argparse.Namespace) -> Path:
    """That of a run's result."""
    name = file_name(task.variant, task.seed) if task.variant else "features"
    return options.runs / task.preset / task.dataset / f"{name}.json"


def _run(task: Task, options: argparse.Namespace) -> str | None:
    """Trains and measures, if that is not done; what went wrong, if anything did."""
    file = _file(task, options)
    if studies.read(file).get("task") == asdict(task):
        return None
    command = [sys.executable, "-m", "benchmarks.noise_levels_run", json.dumps(asdict(task)), str(file.resolve())]
    threads = 1 if task.preset == "cpu" else os.cpu_count() or 1
    return studies.run_logged(command, file.with_suffix(".log"), threads)[1]


def _line(task: Task, options: argparse.Namespace) -> str:
    found = studies.read(_file(task, options))["evaluation"]
    if not task.variant:
        return f"accuracy {found['accuracy']:.1%}"
    return f"importance-weighted loss {found['importance_weighted_loss']:.4f}"


def _store(tasks: Sequence[Task], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes results.json of the runs that are done, and returns its entries."""
    entries = []
    for task in tasks:
        stored, real = (studies.read(_file(one, options)) for one in (task, _features_of(task)))
        if stored.get("task") == asdict(task) and real.get("task") == asdict(_features_of(task)):
            distance = real["evaluation"]["kernel_distance_of_images"]
            evaluation = {**stored["evaluation"], "kernel_distance_of_images": distance}
            entries.append({**_described(task), "evaluation": evaluation})
    if entries:
        device = "cuda" if options.preset == "gpu" and torch.cuda.is_available() else "cpu"
        head = {"study": "noise levels", **provenance(describe(device)), "variants": _descriptions()}
        studies.write_results(options.out / "results.json", head, entries)
    return entries


def _features_of(task: Task) -> Task:
    return Task(**{**asdict(task), "variant": "", "seed": 0})


def _described(task: Task) -> dict[str, Any]:
    """What an entry says of its run: where photographs lie is nobody's business."""
    return {name: value for name, value in asdict(task).items() if name != "data"}


def _descriptions() -> dict[str, dict[str, str]]:
    return {
        name: {"description": variant.description, "baseline": variant.baseline} for name, variant in VARIANTS.items()
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())

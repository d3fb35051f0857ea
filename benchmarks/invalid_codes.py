"""Which remedies help against invalid codes: `python -m benchmarks.invalid_codes` trains RQ-VAEs and measures them.

For each data set and depth every variant is trained alike, with `visgen-fast train rq-vae`, and measured on held-out
images with `visgen-fast evaluate`. Runs are kept in a folder of their own: an interrupted study goes on where it was
when the same command is given again, and measures nothing twice. One process and thread a job; seeds are fixed.

Written to benchmarks/results/invalid_codes: results.json, table.md, and an image of each data set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .invalid_codes_report import write_report
from .machine import describe, provenance

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ("fashion-mnist", "photographs")
DEPTHS = (4, 8, 16)

# The command lines at work, which end with the study.
_running: list[subprocess.Popen] = []


@dataclass(frozen=True)
class Variant:
    """What distinguishes a variant in training and in evaluation; with `trained_as`, it has another one's weights."""

    description: str
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    trained_as: str | None = None


VARIANTS = {
    "baseline": Variant("one codebook for all depths, the decoder sees the sum of all codes"),
    "beam search": Variant(
        "the baseline's weights, codes by a beam of 4", evaluate=("--beam=4",), trained_as="baseline"
    ),
    "rising weights": Variant("the commitment to the sum of d codes weighs ∝ d", ("--depth-weights=rising",)),
    "own codebooks": Variant("a codebook for each depth", ("--no-shared",)),
    "zero code": Variant("one code is 0 and stays so", ("--zero-code",)),
    "dropout": Variant("each image with 1 … Q of its codes, all as likely", ("--quantizer-dropout=1",)),
    "half dropout": Variant("the same for half of the images", ("--quantizer-dropout=0.5",)),
    "own codebooks, half dropout": Variant("both", ("--no-shared", "--quantizer-dropout=0.5")),
}


@dataclass(frozen=True)
class Task:
    """One variant on one data set at one depth."""

    dataset: str
    depth: int
    variant: str

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.dataset}-{self.depth}" / self.variant.replace(", ", "-").replace(" ", "-")

    def __str__(self) -> str:
        return f"{self.dataset}, depth {self.depth}, {self.variant}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes the report of all that there is; 1 if anything failed or is missing."""
    options = _options(arguments)
    tasks = [Task(*key) for key in _keys(options)]
    began, failed = time.monotonic(), []
    pool = ThreadPoolExecutor(options.jobs)
    try:
        # Those that use another's weights come last, when it is trained.
        for waits in (False, True):
            batch = [task for task in tasks if (VARIANTS[task.variant].trained_as is not None) == waits]
            for task, complaint in pool.map(lambda task: (task, _run(task, options)), batch):
                print(f"{time.monotonic() - began:6.0f} s  {task}: {complaint or _line(task, options)}", flush=True)
                failed += [task] if complaint else []
    except KeyboardInterrupt:
        _stop(pool)
        failed += tasks
    finally:
        pool.shutdown(cancel_futures=True)
        _report(tasks, options)
    return 1 if failed else 0


def _stop(pool: ThreadPoolExecutor) -> None:
    """Ends the work that is going on and begins no more."""
    print("interrupted: the same command goes on from here", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # one that comes twice must not end the report
        signal.signal(number, signal.SIG_IGN)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in list(_running):
        process.terminate()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.invalid_codes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    add("--depths", nargs="+", type=int, default=DEPTHS)
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--steps", type=int, default=800, help="of each training; default: 800")
    add("--codes", type=int, default=256, help="in a codebook; default: 256")
    add("--widths", nargs="+", type=int, default=(16, 32), help="of the networks' levels; default: 16 32")
    add("--images", type=int, default=1000, help="held out and measured; default: 1000")
    add("--jobs", type=int, default=2, help="trainings at a time, of one thread each; default: 2")
    add("--runs", type=Path, default=ROOT / "build" / "invalid_codes", help="folder of the runs")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "invalid_codes", help="folder of the report")
    return parser.parse_args(arguments)


def _keys(options: argparse.Namespace) -> list[tuple[str, int, str]]:
    return [
        (dataset, depth, variant)
        for dataset in options.datasets
        for depth in options.depths
        for variant in options.variants
    ]


def _train_arguments(task: Task, options: argparse.Namespace) -> list[str]:
    return [
        *("train", "rq-vae", f"--dataset={task.dataset}", f"--depth={task.depth}", *VARIANTS[task.variant].train),
        *(f"--steps={options.steps}", f"--codes={options.codes}", "--widths", *map(str, options.widths)),
        *("--device=cpu", "--seed=0", "--sample-every=0", "--log-every=100"),
        *(f"--checkpoint-every={max(1, options.steps // 4)}", "--keep-checkpoints=1"),
    ]


def _evaluate_arguments(task: Task, options: argparse.Namespace) -> list[str]:
    return ["evaluate", *VARIANTS[task.variant].evaluate, f"--pictures={options.images}", "--device=cpu"]


def _run(task: Task, options: argparse.Namespace) -> str | None:
    """Trains and measures, as far as that is not done; what went wrong, if anything did."""
    folder, trained_as = task.folder(options.runs), VARIANTS[task.variant].trained_as
    origin = task if trained_as is None else Task(task.dataset, task.depth, trained_as)
    commands = {"train": _train_arguments(origin, options), "evaluate": _evaluate_arguments(task, options)}
    done = _read(folder / "study.json")
    if done.get("commands") == commands:
        return None
    seconds, complaint = _train(folder, commands["train"]) if origin == task else (0.0, None)
    if complaint:
        return complaint
    trained = origin.folder(options.runs)
    if origin != task and _read(trained / "study.json").get("commands", {}).get("train") != commands["train"]:
        return f"there is no finished run of {origin}"
    _, complaint = _visgen([*commands["evaluate"], str(trained / "run"), "--out", str(folder)], folder / "log")
    if complaint is None:
        _write(folder / "study.json", {"commands": commands, "training_seconds": seconds})
    return complaint


def _train(folder: Path, command: list[str]) -> tuple[float, str | None]:
    """Trains in `folder`, from where an interrupted training of the same command was."""
    if _read(folder / "training.json") != command:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(folder / "training.json", command)
    return _visgen([*command, "--out", str(folder / "run"), "--resume"], folder / "log")


def _visgen(arguments: list[str], log: Path) -> tuple[float, str | None]:
    """Runs the command line with one thread: its seconds, and its last line if it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("a") as file:
        command = [sys.executable, "-m", "visgen_fast", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        _running.append(process)
        code = process.wait()
        _running.remove(process)
    lines = log.read_text().strip().splitlines() or ["no message"]
    return time.monotonic() - began, f"failed ({lines[-1]}), see {log}" if code else None


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _line(task: Task, options: argparse.Namespace) -> str:
    found = _read(task.folder(options.runs) / "evaluation.json")
    shares = ", ".join(f"{space} {summary['invalid_share']:.0%}" for space, summary in found["invalid_codes"].items())
    return f"PSNR {found['psnr']:.2f} dB, invalid: {shares}"


def _report(tasks: list[Task], options: argparse.Namespace) -> None:
    entries = []
    for task in tasks:
        folder = task.folder(options.runs)
        done = _read(folder / "study.json")
        if done.get("commands", {}).get("evaluate") == _evaluate_arguments(task, options):
            entries.append(
                {
                    **{"dataset": task.dataset, "depth": task.depth, "variant": task.variant},
                    **done,
                    "evaluation": _read(folder / "evaluation.json"),
                }
            )
    if entries:
        head = {"study": "invalid codes", **provenance(describe("cpu"))}
        write_report(head, entries, {name: variant.description for name, variant in VARIANTS.items()}, options.out)
        print(f"written to {options.out}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())

"""Which remedies help against invalid codes: `python -m benchmarks.invalid_codes` trains RQ-VAEs and measures them.

For each data set and depth every variant is trained alike, with `visgen-fast train rq-vae`, and measured on held-out
images with `visgen-fast evaluate`. Runs are kept in a folder of their own: an interrupted study goes on where it was
when the same command is given again, and measures nothing twice. One process and thread a job; seeds are fixed.

Written to benchmarks/results/invalid_codes: results.json, table.md, and an image of each data set.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import studies
from .invalid_codes_report import write_report
from .machine import describe, provenance

DATASETS = ("fashion-mnist", "photographs")
DEPTHS = (4, 8, 16)


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
    began, done = time.monotonic(), 0
    try:
        with studies.jobs(options.jobs) as pool:
            # Those that use another's weights come last, when it is trained.
            for waits in (False, True):
                batch = [task for task in tasks if (VARIANTS[task.variant].trained_as is not None) == waits]
                for task, complaint in studies.finished(pool, lambda task: _run(task, options), batch):
                    print(f"{time.monotonic() - began:6.0f} s  {task}: {complaint or _line(task, options)}", flush=True)
                    done += complaint is None
    finally:
        _report(tasks, options)
    return int(done < len(tasks))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = studies.parser("invalid_codes", __doc__)
    add = parser.add_argument
    add("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    add("--depths", nargs="+", type=int, default=DEPTHS)
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--steps", type=int, default=800, help="of each training; default: 800")
    add("--codes", type=int, default=256, help="in a codebook; default: 256")
    add("--widths", nargs="+", type=int, default=(16, 32), help="of the networks' levels; default: 16 32")
    add("--images", type=int, default=1000, help="held out and measured; default: 1000")
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
    done = studies.read(folder / "study.json")
    if done.get("commands") == commands:
        return None
    seconds, complaint = _train(folder, commands["train"]) if origin == task else (0.0, None)
    if complaint:
        return complaint
    trained = origin.folder(options.runs)
    if origin != task and studies.read(trained / "study.json").get("commands", {}).get("train") != commands["train"]:
        return f"there is no finished run of {origin}"
    _, complaint = _visgen([*commands["evaluate"], str(trained / "run"), "--out", str(folder)], folder / "log")
    if complaint is None:
        studies.write(folder / "study.json", {"commands": commands, "training_seconds": seconds})
    return complaint


def _train(folder: Path, command: list[str]) -> tuple[float, str | None]:
    """Trains in `folder`, from where an interrupted training of the same command was."""
    if studies.read(folder / "training.json") != command:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        studies.write(folder / "training.json", command)
    return _visgen([*command, "--out", str(folder / "run"), "--resume"], folder / "log")


def _visgen(arguments: list[str], log: Path) -> tuple[float, str | None]:
    """Runs the command line with one thread: its seconds, and its last line if it failed."""
    return studies.run_logged([sys.executable, "-m", "visgen_fast", *arguments], log)


def _line(task: Task, options: argparse.Namespace) -> str:
    found = studies.read(task.folder(options.runs) / "evaluation.json")
    shares = ", ".join(f"{space} {summary['invalid_share']:.0%}" for space, summary in found["invalid_codes"].items())
    return f"PSNR {found['psnr']:.2f} dB, invalid: {shares}"


def _report(tasks: list[Task], options: argparse.Namespace) -> None:
    entries = []
    for task in tasks:
        folder = task.folder(options.runs)
        done = studies.read(folder / "study.json")
        if done.get("commands", {}).get("evaluate") == _evaluate_arguments(task, options):
            entries.append(
                {
                    **{"dataset": task.dataset, "depth": task.depth, "variant": task.variant},
                    **done,
                    "evaluation": studies.read(folder / "evaluation.json"),
                }
            )
    if entries:
        head = {"study": "invalid codes", **provenance(describe("cpu"))}
        write_report(head, entries, {name: variant.description for name, variant in VARIANTS.items()}, options.out)
        print(f"written to {options.out}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())

"""What few steps cost in quality, method by method: `python -m benchmarks.few_steps` trains and measures.

One teacher and one classifier for a data set; every method's student, and some with guidance baked in, each drawn at 1,
2, 4 and 8 steps beside the teacher's Euler steps: root mean square distance to the teacher's 64-step end from the same
seed, Fréchet and kernel distance to the set of that long run and to images. Runs are kept in a folder of their own and
nothing is measured twice: the same command goes on after an interruption. One process and thread a job.

Written to benchmarks/results/few_steps: DATASET.json, DATASET.md, and the pictures of each method.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import studies
from .machine import describe, provenance

METHODS: dict[str, tuple[str, ...]] = {
    "progressive": ("progressive-distillation",),
    "consistency": ("consistency-distillation",),
    "consistency training": ("consistency-training",),
    "scm": ("scm",),
    "mean flow": ("mean-flow",),
    "improved mean flow": ("mean-flow", "--tangent=predicted"),
    "shortcut": ("shortcut",),
    "lagrangian": ("lagrangian",),
    "dmd2": ("dmd2",),
    "moment matching": ("moment-matching",),
    "add": ("add",),
    "ladd": ("ladd",),
    "mean flow, from images": ("mean-flow",),
    "mean flow, guidance 2": ("mean-flow", "--guidance", "2"),
    "mean flow, guidance 4": ("mean-flow", "--guidance", "4"),
}
WITHOUT_TEACHER = ("consistency training", "mean flow, from images")
MATCHING = ("dmd2", "moment matching", "add", "ladd")  # of which a seed need not lead where the teacher's does


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes all that there is; 1 if anything failed."""
    options = _options(arguments)
    began, failed = time.monotonic(), False
    with studies.jobs(options.jobs) as pool:
        for names, work in ((("teacher", "classifier"), _train), (options.only, _train), (options.only, _measure)):
            for name, complaint in studies.finished(pool, lambda name, work=work: work(name, options), names):
                print(f"{time.monotonic() - began:6.0f} s  {name}: {complaint or 'done'}", flush=True)
                failed = failed or complaint is not None
    entries = [entry for name in options.only for entry in _entries(name, options)]
    head = {"study": "few steps", "dataset": options.dataset, **provenance(describe("cpu"))}
    studies.write_results(options.out / f"{options.dataset}.json", head, entries)
    (options.out / f"{options.dataset}.md").write_text(table(entries))
    for name in options.only:
        if (pictures := _folder(options, name) / "few_steps.png").exists():
            shutil.copy(pictures, options.out / f"{options.dataset}-{_slug(name)}.png")
    print(f"written to {options.out}")
    return int(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = studies.parser("few_steps", __doc__)
    add = parser.add_argument
    add("--only", nargs="*", choices=METHODS, default=list(METHODS), help="methods; default: all")
    add("--dataset", default="digits")
    add("--steps", type=int, default=3000, help="of each student's training")
    add("--teacher-steps", type=int, default=3000, help="of the teacher's training")
    add("--width", type=int, default=64, help="of the networks")
    add("--depth", type=int, default=3, help="of the networks")
    add("--pictures", type=int, default=1000, help="that are drawn to measure a set")
    return parser.parse_args(arguments)


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _folder(options: argparse.Namespace, name: str) -> Path:
    return options.runs / f"{options.dataset}-{options.teacher_steps}-{options.steps}" / _slug(name)


def _train(name: str, options: argparse.Namespace) -> str | None:
    """Trains a run, or goes on with it; what went wrong."""
    folder, steps = _folder(options, name), options.steps
    size = [f"--width={options.width}", f"--depth={options.depth}"]
    if (folder / "loss.png").exists():
        return None
    if name == "teacher":
        command, steps = ["rectified-flow", "--time-scale=1", *size], options.teacher_steps
    elif name == "classifier":
        command = ["classifier"]
    else:
        command = [*METHODS[name]]
        command += size if name in WITHOUT_TEACHER else [f"--teacher={_folder(options, 'teacher')}"]
        command += [f"--features={_folder(options, 'classifier')}"] if name == "add" else []
    command += [f"--dataset={options.dataset}", f"--steps={steps}", "--device=cpu", "--sample-every=0"]
    resume = ["--resume"] if (folder / "checkpoints").exists() else []
    whole = [sys.executable, "-m", "visgen_fast", "train", *command, *resume, f"--out={folder}"]
    seconds, complaint = studies.run_logged(whole, folder.with_suffix(".log"))
    if complaint is None:
        studies.write(folder.with_suffix(".seconds.json"), seconds)
    return complaint


def _measure(name: str, options: argparse.Namespace) -> str | None:
    folder = _folder(options, name)
    if (folder / "few_steps.json").exists() or not (folder / "loss.png").exists():
        return None
    command = [sys.executable, "-m", "visgen_fast", "evaluate", str(folder), "--steps", "1", "2", "4", "8"]
    command += [f"--teacher={_folder(options, 'teacher')}", f"--features={_folder(options, 'classifier')}"]
    return studies.run_logged([*command, f"--pictures={options.pictures}", "--device=cpu"], folder.with_suffix(".log"))[
        1
    ]


def _entries(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A method's measures, and with the first method the teacher's, as rows."""
    found = studies.read(_folder(options, name) / "few_steps.json")
    rows = []
    for one in found.get("measures", []):
        sets = {key: one[key]["frechet_distance"]["value"] for key in ("to_teacher", "to_data")}
        kernels = {f"{key}_kernel": one[key]["kernel_distance"]["value"] for key in ("to_teacher", "to_data")}
        seconds = studies.read(_folder(options, name).with_suffix(".seconds.json"))
        rows.append(
            {
                **{"method": name, "model": one["model"], "steps": one["steps"], "error": one["error"]},
                **{**sets, **kernels, "seconds": seconds or None},
            }
        )
    return rows


def verdicts(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What each method misses of: at one step at most half of the teacher's one-step error, or for matching its Fréchet
    distance; at four at most 1.5 times the Fréchet distance of the teacher's long run to images."""
    missed: dict[str, list[str]] = {}
    for name in dict.fromkeys(entry["method"] for entry in entries):
        of = {(entry["model"], entry["steps"]): entry for entry in entries if entry["method"] == name}
        long = max(steps for model, steps in of if model == "teacher")
        missed[name] = []
        measure = "to_data" if name in MATCHING else "error"
        ratio = of["student", 1][measure] / of["teacher", 1][measure]
        if ratio > 0.5:
            what = "error" if measure == "error" else "distance to images"
            missed[name].append(f"at one step {ratio:.2f} of the teacher's {what}")
        ratio = of["student", 4]["to_data"] / of["teacher", long]["to_data"]
        if "guidance" not in name and ratio > 1.5:  # guided samples are far from images for the teacher too
            missed[name].append(f"at four steps {ratio:.2f} times the long run's distance to images")
    return missed


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Methods by steps, as Markdown: same-seed error and Fréchet distance to images; then what they miss."""
    lines = ["| method | 1 step | 2 | 4 | 8 | misses |", "|---|---|---|---|---|---|"]
    missed = verdicts(entries)
    for model, names in (("teacher", list(missed)[:1]), ("student", list(missed))):
        for name in names:
            of = {entry["steps"]: entry for entry in entries if entry["method"] == name and entry["model"] == model}
            cells = [f"{of[steps]['error']:.3f}, {of[steps]['to_data']:.1f}" for steps in (1, 2, 4, 8)]
            last = "" if model == "teacher" else "; ".join(missed[name]) or "–"
            lines.append(f"| {'teacher, Euler' if model == 'teacher' else name} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

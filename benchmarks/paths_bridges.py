"""The part `bridges` of the study of paths: one class of digits turned into another one and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import sample_bridge
from visgen_fast.recipes.runs import load_system, trained_classifier
from visgen_fast.systems.bridge import PathSystem

from . import studies
from .decomposition_measures import measured
from .sheet import show_rows
from .table import as_markdown
from .trainings import train_all

CLASSES = (3, 8)
# The second stage begins as the flow of the first.
METHODS = ("ot-flow", "dsb", "dsb-matching", "simplified dsb")
LEAST = 0.8
_SHOWN, _SIZE = 6, ["--width=64", "--depth=3"]


def stages(folder: Path, steps: int, short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name; the classifier beside the paths."""
    small = ["--width=8", "--depth=1", "--heads=1", "--batch-size=4", "--sampling-steps=2"] if short else _SIZE
    turns = ["--turn-steps=2", "--refresh=1", "--cache=8"] if short else ["--sigma=0.5"]
    told = ["--classes", *map(str, CLASSES), *small]
    length = [f"--steps={4 if short else steps}", "--lr-schedule=cosine"]
    first = {name: [name, *told, *(turns if name != "ot-flow" else []), *length] for name in METHODS[:3]}
    begun = ["dsb", "--target=flow", f"--flow={folder / 'ot-flow'}", *told, *turns, *length]
    judge = ["classifier", "--dataset=digits", f"--steps={4 if short else 300}"]
    return [{"classifier": judge, **first}, {_slug(METHODS[3]): begun}]


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def train(folder: Path, options: argparse.Namespace) -> int:
    """Trains what is missing; how many failed."""
    return train_all(stages(folder.resolve(), options.steps, options.short), folder, options.jobs)


def report(folder: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes table.md and bridges.png; what was measured, an entry a method."""
    count = 4 if options.short else options.pictures
    names = {name: _slug(name) for name in METHODS}
    entries = [
        {**measured(folder, slug, lambda slug=slug: _measure(folder, slug, count)), "run": name}
        for name, slug in names.items()
    ]
    _draw(folder, out)
    rows = [
        (
            entry["run"],
            *(f"{entry[f'recognised_{way}']:.1%}" for way in ("forward", "backward")),
            f"{entry['return_error']:.3f}" if "return_error" in entry else "–",
            f"{entry['path_energy']:.1f}",
        )
        for entry in entries
    ]
    least = {entry["run"]: min(entry["recognised_forward"], entry["recognised_backward"]) for entry in entries}
    holds, fails = ([name for name in least if (least[name] >= LEAST) == yes] for yes in (True, False))
    verdict = (
        f"At least {LEAST:.0%} of the pictures are recognised as what they should have become, both ways, for "
        f"{', '.join(holds) or 'none'}" + (f", and fewer for {', '.join(fails)}" if fails else "") + ". What the "
        f"deterministic path leads there comes back within {entries[0]['return_error']:.3f} (root mean square)."
    )
    there, back = f"{CLASSES[0]} to {CLASSES[1]}", f"{CLASSES[1]} to {CLASSES[0]}"
    heads = ("method", f"recognised, {there}", f"recognised, {back}", "error of the way back", "path energy")
    (out / "table.md").write_text(f"# Bridges between classes\n\n{verdict}\n\n{as_markdown(heads, rows)}\n")
    return entries


@torch.no_grad()
def _measure(folder: Path, name: str, count: int) -> dict[str, Any]:
    system = cast(PathSystem, load_system(folder / name))
    classify = trained_classifier(folder / "classifier", system.shape[0])
    seeds = ops.derive_seeds(0, torch.arange(count))
    here, there = (torch.full((count,), label) for label in CLASSES)
    found: dict[str, Any] = {"path_energy": studies.read(folder / name / "metrics.json")["path_energy"]}
    for direction, label in (("backward", here), ("forward", there)):
        taken = classify(system.sample(here, seeds, direction=direction)).argmax(1)
        found[f"recognised_{direction}"] = float((taken == label).double().mean())
    if system.sigma == 0:
        x, _, back = _there_and_back(system, here, seeds)
        found["return_error"] = float((back - x).square().mean().sqrt())
    return found


def _there_and_back(system: PathSystem, labels: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images of the one class, what they become, and what becomes of that."""
    way: dict[str, Any] = {"sigma": system.sigma, "steps": 100, "final_noise": False}
    x = system.start.draw(seeds, labels)
    there = sample_bridge(system.network("forward"), x, seeds, labels, direction="forward", **way)
    return x, there, sample_bridge(system.network("backward"), there, seeds, labels, direction="backward", **way)


@torch.no_grad()
def _draw(folder: Path, out: Path) -> None:
    """Rows of images, what becomes of them, and what becomes of these, for each method."""
    labels, seeds = torch.full((_SHOWN,), CLASSES[0]), ops.derive_seeds(1, torch.arange(_SHOWN))
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for place, name in enumerate(METHODS):
        rows = _there_and_back(cast(PathSystem, load_system(folder / _slug(name))), labels, seeds)
        axes = figure.add_subplot(2, 2, place + 1, title=name)
        show_rows(axes, dict(zip((f"a {CLASSES[0]}", f"an {CLASSES[1]}", "back"), rows, strict=True)))
    figure.savefig(out / "bridges.png", dpi=110)

"""The part `flows` of the study of paths: flows beside diffusion models of about the same size, after the same time.

Every training has the same time, not the same steps: a few steps of each are timed first, and as many as fit are made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure

from visgen_fast.data.images import in_chunks
from visgen_fast.evaluation.fid import FeatureMoments, frechet_distance
from visgen_fast.recipes._images import ImageSettings, held_out_images
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system, trained_classifier
from visgen_fast.systems.generative import GenerativeSystem, draw_samples
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run

from . import studies
from .decomposition_measures import measured
from .sheet import show_rows
from .table import as_markdown
from .trainings import train_all

# About 230,000 weights each on digits.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "real-nvp": ("real-nvp", {}),
    "real-nvp with noise": ("real-nvp", {"noise": 0.05}),
    "tar-flow": ("tar-flow", {"noise": 0.0, "blocks": 4}),
    "tar-flow with noise": ("tar-flow", {"blocks": 4}),
    "vdm": ("vdm", {"width": 36}),
    "rectified-flow": ("rectified-flow", {"width": 64, "depth": 3, "guidance": 1.0}),
}
# Large enough for Fashion-MNIST, about 2,000,000 each.
LARGER: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("real-nvp", "real-nvp with noise"), {"width": 64, "depth": 2}),
    "tar-flow": {"width": 128, "blocks": 4, "patch_size": 4},
    "tar-flow with noise": {"width": 128, "blocks": 4, "patch_size": 4},
    "vdm": {"width": 64},
    "rectified-flow": {"width": 128, "depth": 6, "patch_size": 4},
}
_TINY = {"width": 8, "depth": 1, "batch_size": 4}
_WARM, _TIMED = 2, 8


def train(folder: Path, options: argparse.Namespace) -> int:
    """Trains what is missing; how many failed."""
    here = folder / options.dataset
    steps = {name: _steps(here, name, options) for name in RUNS}
    words = {
        _slug(name): [
            RUNS[name][0],
            *(f"--{key.replace('_', '-')}={value}" for key, value in _chosen(name, options).items()),
            *(f"--dataset={options.dataset}", f"--steps={steps[name]}", "--lr-schedule=cosine"),
        ]
        for name in RUNS
    }
    judge = ["classifier", f"--dataset={options.dataset}", f"--steps={4 if options.short else 1000}"]
    return train_all([{"classifier": judge, **words}], here, options.jobs)


def report(folder: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes table.md, of all data sets so far, and flows.png, of this one; what was measured, an entry a run."""
    here, count = folder / options.dataset, 2 if options.short else options.pictures
    found = [
        {
            **measured(here, _slug(name), lambda name=name: _measure(here, _slug(name), options.dataset, count)),
            **{"run": name, "dataset": options.dataset, "steps": _steps(here, name, options)},
        }
        for name in RUNS
    ]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    show_rows(figure.add_subplot(), {entry["run"]: torch.tensor(entry.pop("shown")) for entry in found})
    figure.savefig(out / "flows.png", dpi=110)
    stored = studies.read(out / "results.json").get("entries", [])
    entries = [*(entry for entry in stored if entry["dataset"] != options.dataset), *found]
    rows = [
        (
            entry["dataset"],
            entry["run"],
            f"{entry['parameters']:,}",
            str(entry["steps"]),
            f"{entry['bits_per_dim']:.3f}" if "bits_per_dim" in entry else "–",
            f"{entry['fid']:.2f}",
            f"{entry['recognised']:.1%}",
        )
        for entry in entries
    ]
    verdict = " ".join(_verdict(dataset, entries) for dataset in dict.fromkeys(entry["dataset"] for entry in entries))
    heads = ("images", "model", "weights", "steps", "bits per dimension", "FID", "recognised")
    (out / "table.md").write_text(f"# Flows\n\n{verdict}\n\n{as_markdown(heads, rows)}\n")
    return entries


def _verdict(dataset: str, entries: Sequence[dict[str, Any]]) -> str:
    of = {entry["run"]: entry for entry in entries if entry["dataset"] == dataset}
    bits = {name: of[name]["bits_per_dim"] for name in ("tar-flow", "real-nvp")}
    fid = {name: min(entry["fid"] for run, entry in of.items() if run.startswith(name)) for name in bits}
    diffusion = min(entry["fid"] for run, entry in of.items() if not run.startswith(tuple(bits)))
    weakest = "still the weakest" if min(fid.values()) > diffusion else "not the weakest any more"
    return (
        f"On {dataset}, after the same time, TarFlow needs {bits['tar-flow']:.3f} bits per dimension and Real NVP "
        f"{bits['real-nvp']:.3f}, and their FID is {fid['tar-flow']:.2f} and {fid['real-nvp']:.2f}. The best diffusion "
        f"model has {diffusion:.2f}: the flow is {weakest}."
    )


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _chosen(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The settings of a run that differ from its recipe's."""
    chosen = {**RUNS[name][1], **({} if options.dataset == "digits" else LARGER[name])}
    if options.short:
        chosen |= _TINY | ({"heads": 1} if RUNS[name][0] != "real-nvp" and name != "vdm" else {})
    return chosen


def _steps(folder: Path, name: str, options: argparse.Namespace) -> int:
    """As many as fit into the time, from a few that were timed once."""
    if options.short:
        return 4
    found = measured(folder, f"speed-{_slug(name)}", lambda: {"seconds": _seconds(folder, name, options)})
    return max(1, round(60 * options.minutes / found["seconds"]))


def _seconds(folder: Path, name: str, options: argparse.Namespace) -> float:
    """Of processor time for a step, by one thread."""
    recipe, threads = load_recipe(RUNS[name][0]), torch.get_num_threads()
    settings = recipe.settings_for(options.dataset, **_chosen(name, options), device="cpu")
    images = recipe.pictures(settings)
    torch.set_num_threads(1)
    trainer = Trainer(build(recipe, settings, images.format), images, Run(folder / "timed", settings, identity={}))
    for step in range(_WARM + _TIMED):
        if step == _WARM:
            began = time.process_time()
        trainer.optimize()
    torch.set_num_threads(threads)
    return (time.process_time() - began) / _TIMED


@torch.no_grad()
def _measure(folder: Path, name: str, dataset: str, count: int) -> dict[str, Any]:
    images = held_out_images(ImageSettings(dataset=dataset))
    system = cast(GenerativeSystem, load_system(folder / name))
    classify = trained_classifier(folder / "classifier", images.format.channels)
    labels = range(len(images.format.class_names))
    drawn = draw_samples(system, labels, count, seed=0, device="cpu")
    real, made = FeatureMoments(), FeatureMoments()
    for shown, _ in in_chunks(images, torch.device("cpu")):
        real.add(classify.embedding(shown))
    right = []
    for label, row in zip(labels, drawn, strict=True):
        made.add(classify.embedding(row))
        right.append((classify(row).argmax(1) == label).double().mean())
    measures = studies.read(folder / name / "metrics.json")
    bits = [measures[key] for key in ("bits_per_dim", "bits_per_dimension") if key in measures]
    return {
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        **({"bits_per_dim": bits[0]} if bits else {}),
        "fid": frechet_distance(real, made),
        "recognised": float(torch.stack(right).mean()),
        "shown": drawn[:, 0].mul(1e3).round().div(1e3).tolist(),
    }

"""What learned paths, flows and energies are worth: `python -m benchmarks.paths` trains and measures.

In the plane: a flow from eight Gaussians to two moons, on independent pairs and on optimal ones: the energy of its path
beside the squared Wasserstein distance. On images: flows and a diffusion model (bits per dimension, Fréchet distance of
a classifier's features), an energy, and bridges from one class to another (the share of pictures that the classifier
recognises, both ways; the root mean square by which the way back misses). Runs are kept in a folder of their own and
nothing is measured twice: the same command goes on after an interruption. One process and thread a job.

Written to benchmarks/results/paths: results.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import bridge_coefficients, optimal, sample_bridge

from . import studies
from .machine import describe, provenance

CLASSES = (3, 8)
RUNS: dict[str, tuple[str, ...]] = {
    "real-nvp": ("real-nvp",),
    "tar-flow, bits": ("tar-flow", "--noise=0"),
    "tar-flow": ("tar-flow",),
    "rectified-flow": ("rectified-flow",),
    "ot-flow": ("ot-flow",),
    "energy": ("energy",),
    **{f"{name}, classes": (name, "--classes", *map(str, CLASSES)) for name in ("ot-flow", "dsb", "dsb-matching")},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes all that there is; 1 if anything failed."""
    options = _options(arguments)
    names = ["classifier", *options.only]
    began, failed = time.monotonic(), False
    entries: list[dict[str, Any]] = []
    for coupling in ("independent", "optimal"):
        found = _kept(options, f"moons {coupling}", lambda coupling=coupling: moons(coupling, options.plane_steps))
        entries.append({"part": "moons", **found})
    with studies.jobs(options.jobs) as pool:
        for name, complaint in studies.finished(pool, lambda name: _train(name, options), names):
            print(f"{time.monotonic() - began:6.0f} s  {name}: {complaint or 'trained'}", flush=True)
            failed = failed or complaint is not None
    for name in options.only:
        if (_folder(options, name) / "metrics.json").exists() or (_folder(options, name) / "samples.png").exists():
            entries.append({"part": name, **_kept(options, f"measured {name}", lambda n=name: _measure(n, options))})
            print(entries[-1], flush=True)
    head = {"study": "paths", **provenance(describe("cpu"))}
    studies.write_results(options.out / "results.json", head, entries)
    print(f"written to {options.out}")
    return int(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = studies.parser("paths", __doc__)
    add = parser.add_argument
    add("--only", nargs="*", choices=RUNS, default=list(RUNS), help="runs on images; default: all")
    add("--dataset", default="digits")
    add("--steps", type=int, default=2000, help="of each training on images")
    add("--plane-steps", type=int, default=4000, help="of each training in the plane")
    add("--samples", type=int, default=50, help="drawn of each class")
    return parser.parse_args(arguments)


def moons(coupling: str, steps: int, *, batch: int = 256, count: int = 2000) -> dict[str, Any]:
    """A flow from eight Gaussians, at t = 1, to two moons, at t = 0: its path's energy and what no path goes below."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 64), nn.SELU(), nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 2)]
    network = nn.Sequential(*layers)

    def velocity(x: Tensor, t: Tensor, labels: object = None) -> Tensor:
        return network(torch.cat((x, t[:, None]), 1))

    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
        seeds = ops.derive_seeds(0, torch.arange(batch) + step * batch)
        x, endpoint = _two_moons(seeds), _eight_gaussians(seeds)
        if coupling == "optimal":
            endpoint = endpoint[optimal(x, endpoint)]
        t = ops.uniform(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        rows = bridge_coefficients("linear", "velocity", t)
        optimizer.zero_grad()
        output = velocity(ops.add_noise(x, rows, seeds, endpoint=endpoint), t)
        ops.denoising_loss(output, x, rows, seeds, endpoint=endpoint).backward()
        optimizer.step()
    seeds = ops.derive_seeds(1, torch.arange(count))
    x, start = _two_moons(seeds), _eight_gaussians(seeds)
    path = sample_bridge(velocity, start, seeds, sigma=0.0, direction="backward", steps=100, path=True)
    energy = path.diff(dim=0).square().sum(2).mean(1).sum() * 100
    cost = (x - start[optimal(x, start)]).square().sum(1).mean()
    missed = (x - path[-1][optimal(x, path[-1])]).square().sum(1).mean()
    return {
        "coupling": coupling,
        "path_energy": float(energy),
        "wasserstein_2": float(cost),
        "end_missed": float(missed),
    }


def _two_moons(seeds: Tensor) -> Tensor:
    """The moons of scikit-learn, three times as large and shifted by −1, with noise."""
    which, share = ops.uniform(seeds, (2,), stream=101).unbind(1)
    angle, lower = math.pi * share, which > 0.5
    points = torch.stack((angle.cos(), angle.sin()), 1)
    points = torch.where(lower[:, None], torch.tensor([1.0, 0.5]) - points, points)
    return 3 * (points + 0.05 * ops.gaussian(seeds, (2,), stream=102)) - 1


def _eight_gaussians(seeds: Tensor) -> Tensor:
    """On a circle of radius 5, of variance 0.1."""
    angle = (ops.uniform(seeds, (1,), stream=103) * 8).ceil().squeeze(1) * (math.pi / 4)
    return 5 * torch.stack((angle.cos(), angle.sin()), 1) + 0.1**0.5 * ops.gaussian(seeds, (2,), stream=104)


def _folder(options: argparse.Namespace, name: str) -> Path:
    return options.runs / f"{options.dataset}-{options.steps}" / name.replace(", ", "-")


def _train(name: str, options: argparse.Namespace) -> str | None:
    folder = _folder(options, name)
    if (folder / "samples.png").exists() or (folder / "predictions.png").exists():
        return None
    recipe, *more = RUNS.get(name, (name,))
    command = [sys.executable, "-m", "visgen_fast", "train", recipe, f"--dataset={options.dataset}", *more]
    command += [f"--steps={options.steps}", "--device=cpu", "--sample-every=0", "--lr-schedule=cosine"]
    resume = ["--resume"] if (folder / "checkpoints").exists() else []
    return studies.run_logged([*command, *resume, f"--out={folder}"], folder.with_suffix(".log"))[1]


def _kept(options: argparse.Namespace, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before, or is now."""
    path = _folder(options, name).with_suffix(".json")
    if not path.exists():
        studies.write(path, measure())
    return studies.read(path)


@torch.no_grad()
def _measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    from visgen_fast.data.images import in_chunks
    from visgen_fast.evaluation.fid import FeatureMoments, frechet_distance
    from visgen_fast.recipes._images import ImageSettings, held_out_images
    from visgen_fast.recipes.runs import load_system
    from visgen_fast.systems.generative import draw_samples

    folder = _folder(options, name)
    system = load_system(folder)
    classify = load_system(_folder(options, "classifier")).classifier
    metrics = folder / "metrics.json"
    found: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        **(json.loads(metrics.read_text()) if metrics.exists() else {}),
    }
    if name.endswith("classes"):
        seeds = ops.derive_seeds(0, torch.arange(4 * options.samples))
        here, there = (torch.full((len(seeds),), label) for label in CLASSES)
        for direction, label in (("backward", here), ("forward", there)):
            taken = classify(system.sample(here, seeds, direction=direction)).argmax(1)
            found[f"recognised_{direction}"] = float((taken == label).float().mean())
        way = {"sigma": 0.0, "steps": 100}
        if system.sigma == 0:
            x = system.start.draw(seeds, here)
            reached = sample_bridge(system.network("forward"), x, seeds, here, direction="forward", **way)
            back = sample_bridge(system.network("backward"), reached, seeds, here, direction="backward", **way)
            found["return_error"] = float((back - x).square().mean().sqrt())
        return found
    images = held_out_images(ImageSettings(dataset=options.dataset))
    labels = range(len(images.format.class_names))
    drawn = draw_samples(system, labels, options.samples, seed=0, device="cpu")
    real, made = FeatureMoments(), FeatureMoments()
    for shown, _ in in_chunks(images, torch.device("cpu")):
        real.add(classify.embedding(shown))
    for label, row in zip(labels, drawn, strict=True):
        made.add(classify.embedding(row))
        share = float((classify(row).argmax(1) == label).float().mean())
        found["recognised"] = found.get("recognised", 0.0) + share / len(labels)
    return {**found, "fid": frechet_distance(real, made)}


if __name__ == "__main__":
    sys.exit(main())

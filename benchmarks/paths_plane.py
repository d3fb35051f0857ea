"""The part `plane` of the study of paths: from eight Gaussians to two moons, on independent pairs and optimal ones."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import bridge_coefficients, optimal, sample_bridge

from .decomposition_measures import measured, seeds_of, spread
from .table import as_markdown

COUPLINGS = ("independent", "optimal")
_SHOWN = 150


def train(folder: Path, options: argparse.Namespace) -> int:
    """Nothing: what is trained is measured at once."""
    return 0


def report(folder: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes table.md and plane.png; what was measured, an entry a run."""
    size = {"steps": 20, "batch": 32, "count": 40} if options.short else {"steps": 3000, "batch": 256, "count": 2000}
    found = {
        coupling: [
            measured(folder, run, lambda coupling=coupling, seed=seed: moons(coupling, seed, **size))
            for seed, run in enumerate(seeds_of(coupling, options.seeds))
        ]
        for coupling in COUPLINGS
    }
    pictures = {coupling: torch.tensor([run.pop("path") for run in found[coupling]][0]) for coupling in COUPLINGS}
    figure = Figure(figsize=(8, 4), layout="constrained")
    for place, coupling in enumerate(COUPLINGS):
        axes = figure.add_subplot(1, 2, place + 1, title=f"{coupling} pairs", aspect="equal", xticks=[], yticks=[])
        path = pictures[coupling]
        axes.plot(*path.transpose(0, 2).transpose(1, 2).unbind(0), color="#9aa5b1", linewidth=0.4)
        for points, colour in ((path[0], "#c44536"), (path[-1], "#0b6e4f")):
            axes.scatter(*points.T, s=4, color=colour, zorder=2)
    figure.savefig(out / "plane.png", dpi=110)
    measures = ("path_energy", "wasserstein_2", "missed")
    rows = [(name, *(spread([run[key] for run in found[name]]) for key in measures)) for name in COUPLINGS]
    ratio = [fmean(run["path_energy"] / run["wasserstein_2"] for run in found[coupling]) for coupling in COUPLINGS]
    verdict = (
        f"The path's energy is {ratio[1]:.2f} times the squared Wasserstein distance for optimal pairs, "
        f"{ratio[0]:.2f} times for independent ones."
    )
    heads = ("pairs", "path energy", "W₂² of the two ends", "W₂² from the moons to where the path leads")
    (out / "table.md").write_text(f"# From eight Gaussians to moons\n\n{verdict}\n\n{as_markdown(heads, rows)}\n")
    return [run for coupling in COUPLINGS for run in found[coupling]]


def moons(coupling: str, seed: int, *, steps: int, batch: int, count: int) -> dict[str, Any]:
    """A flow from eight Gaussians, at t = 1, to two moons, at t = 0: its path's energy and what no path goes below."""
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 64), nn.SELU(), nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 2)]
    network = nn.Sequential(*layers)

    def velocity(x: Tensor, t: Tensor, labels: object = None) -> Tensor:
        return network(torch.cat((x, t[:, None]), 1))

    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
        seeds = ops.derive_seeds(2 * seed, torch.arange(batch) + step * batch)
        x, endpoint = _two_moons(seeds), _eight_gaussians(seeds)
        if coupling == "optimal":
            endpoint = endpoint[optimal(x, endpoint)]
        t = ops.uniform(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        rows = bridge_coefficients("linear", "velocity", t)
        optimizer.zero_grad()
        output = velocity(ops.add_noise(x, rows, seeds, endpoint=endpoint), t)
        ops.denoising_loss(output, x, rows, seeds, endpoint=endpoint).backward()
        optimizer.step()
    seeds = ops.derive_seeds(2 * seed + 1, torch.arange(count))
    x, start = _two_moons(seeds), _eight_gaussians(seeds)
    path = sample_bridge(velocity, start, seeds, sigma=0.0, direction="backward", steps=100, path=True)
    energy = path.diff(dim=0).square().sum(2).mean(1).sum() * 100
    cost = (x - start[optimal(x, start)]).square().sum(1).mean()
    missed = (x - path[-1][optimal(x, path[-1])]).square().sum(1).mean()
    return {
        "path_energy": float(energy),
        "wasserstein_2": float(cost),
        "missed": float(missed),
        "path": path[::5, :_SHOWN].mul(1e3).round().div(1e3).tolist(),
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

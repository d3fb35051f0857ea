"""The part `mixture` of the study of paths: energies of three Gaussians in the plane, beside the density that is known.

One energy is learned by denoising score matching, of points with some noise; the other by contrastive divergence from a
replay buffer, of the points themselves.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.diffusion import CosineVP, DiffusionObjective, LogitNormalTimes
from visgen_fast.energies import EnergyModel, ReplayBuffer, contrastive_divergence

from .decomposition_measures import measured, seeds_of, spread
from .table import as_markdown

CENTRES, SPREAD = torch.tensor([[-0.8, -0.6], [0.7, -0.4], [0.0, 0.9]]), 0.3
WAYS = ("score matching", "contrastive divergence")
_SIDE, _REACH, _TIME = 61, 2.0, 0.15


class Network(nn.Module):
    """A network of points of the plane: to points at a time, or with `outputs` = 1 to a number."""

    def __init__(self, outputs: int, width: int = 64) -> None:
        super().__init__()
        told = 3 if outputs == 2 else 2
        self.layers = nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor, t: Tensor | None = None, labels: object = None) -> Tensor:
        return self.out(self.layers(x if t is None else torch.cat((x, t[:, None].to(x.dtype)), 1)))


class Bowl(nn.Module):
    """An energy that is high far away: a network's beside ½·‖x‖²."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(1)

    def forward(self, x: Tensor, labels: object = None) -> Tensor:
        return self.network(x)[:, 0] + 0.5 * x.square().sum(1)


def train(folder: Path, options: argparse.Namespace) -> int:
    """Nothing: what is trained is measured at once."""
    return 0


def report(folder: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes table.md and mixture.png; what was measured, an entry a run."""
    steps = 4 if options.short else 1500
    found = {
        way: [
            measured(folder, run, lambda way=way, seed=seed: learn(way, seed, steps))
            for seed, run in enumerate(seeds_of(way.replace(" ", "-"), options.seeds))
        ]
        for way in WAYS
    }
    maps = {way: torch.tensor([run.pop("density") for run in found[way]][0]) for way in WAYS}
    shown = {"known": true_density(1.0, 0.0), **maps}
    figure = Figure(figsize=(8.4, 3), layout="constrained")
    for place, (title, density) in enumerate(shown.items()):
        axes = figure.add_subplot(1, 3, place + 1, title=title, xticks=[], yticks=[])
        axes.imshow(density.view(_SIDE, _SIDE).T, origin="lower", cmap="magma")
    figure.savefig(out / "mixture.png", dpi=110)
    rows = [(way, spread([run["correlation"] for run in found[way]])) for way in WAYS]
    least = {way: min(run["correlation"] for run in found[way]) for way in WAYS}
    said = ", ".join(f"{value:.3f} for {way}" for way, value in least.items())
    verdict = f"The least correlation of the learned density with the true one, over seeds, is {said}."
    table = as_markdown(("learned by", "correlation with the true density"), rows)
    (out / "table.md").write_text(f"# Energies of a mixture\n\n{verdict}\n\n{table}\n")
    return [run for way in WAYS for run in found[way]]


def learn(way: str, seed: int, steps: int) -> dict[str, Any]:
    """Trains an energy; the correlation of its density with the true one on a grid, and the density there."""
    torch.manual_seed(seed)
    schedule, time = CosineVP(), torch.tensor(_TIME)
    if way == "score matching":
        model = EnergyModel(Network(2), schedule.sigma)
        objective = DiffusionObjective(schedule, "epsilon", LogitNormalTimes(mean=-1.0, std=1.0))
        for _, seeds in _steps(model, steps, seed, 5e-3):
            objective(model, points(seeds), torch.zeros(len(seeds)), seeds).mean().backward()
        alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
        with torch.no_grad():
            learned = (-model.energy(grid(), time.expand(len(grid())))).softmax(0)
    else:
        bowl, alpha, sigma = Bowl(), 1.0, 0.0
        options = {"classes": 1, "per_class": 256, "refresh": 10, "steps": 200, "step_size": 0.02}
        buffer = ReplayBuffer(bowl, (2,), **options, seed=seed)
        for step, seeds in _steps(bowl, steps, seed, 5e-4):
            buffer.before_step(bowl, step)
            start = buffer.states(torch.zeros_like(seeds), seeds)
            chains = {"steps": 10, "step_size": 0.02, "start": start, "penalty": 1e-3}
            contrastive_divergence(bowl, points(seeds), seeds, **chains).mean().backward()
        with torch.no_grad():
            learned = (-bowl(grid())).softmax(0)
    correlation = torch.corrcoef(torch.stack((true_density(alpha, sigma), learned)))[0, 1]
    return {"correlation": float(correlation), "density": learned.mul(1e7).round().div(1e7).tolist()}


def _steps(model: nn.Module, steps: int, seed: int, rate: float) -> Any:
    """The number and the seeds of every step, whose gradients an optimizer then takes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        yield step, ops.derive_seeds(seed, torch.arange(256) + 256 * step)
        optimizer.step()


def points(seeds: Tensor) -> Tensor:
    """A point of the mixture for each seed."""
    chosen = (ops.uniform(seeds, (1,), stream=1)[:, 0] * len(CENTRES)).ceil().long() - 1
    return CENTRES[chosen] + SPREAD * ops.gaussian(seeds, (2,), stream=2)


def grid() -> Tensor:
    """The points at which densities are compared."""
    line = torch.linspace(-_REACH, _REACH, _SIDE)
    return torch.cartesian_prod(line, line)


def true_density(alpha: float, sigma: float) -> Tensor:
    """That of alpha·x + sigma·noise on the grid, which sums to 1."""
    variance = (alpha * SPREAD) ** 2 + sigma**2
    density = (-0.5 * torch.cdist(grid(), alpha * CENTRES).square() / variance).exp().sum(1)
    return density / density.sum()

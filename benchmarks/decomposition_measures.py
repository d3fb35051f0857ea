"""What the parts of the study of decompositions share: held-out pictures, their bits, and verdicts over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from visgen_fast.autoregression import nll
from visgen_fast.data.images import AT_A_TIME, evenly, to_range
from visgen_fast.evaluation import gradient_cosines
from visgen_fast.evaluation.subtasks import Subtasks
from visgen_fast.recipes.runs import images_to_measure, trained
from visgen_fast.systems.codes import CodeSystem
from visgen_fast.training import checkpoint
from visgen_fast.training.system import System

from . import studies


def measured(folder: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` finds of a run, kept beside it, so that it is measured once."""
    path = folder / f"{name}.measured.json"
    found = studies.read(path)
    if not found:
        found = measure()
        studies.write(path, found)
    return {"run": name, **found}


def held_out(run: Path, pictures: int) -> tuple[System, Tensor, Tensor]:
    """A run's system, and pictures [N, C, H, W] in [−1, 1] that it never saw, spread evenly, with their labels."""
    recipe, settings, system = trained(checkpoint.read(run))
    images, _ = images_to_measure(recipe, settings)
    pixels, labels, _ = images.read(evenly(len(images), pictures))
    return system, to_range(pixels), labels


@torch.no_grad()
def bits_of(system: CodeSystem, images: Tensor, labels: Tensor) -> Tensor:
    """The bits of every code of the pictures, float64 [N, *grid, Q]."""
    batches = zip(images.split(AT_A_TIME), labels.split(AT_A_TIME), strict=True)
    losses = [nll(system.model, system.codec.encode(some), told).double() for some, told in batches]
    return torch.cat(losses) / math.log(2)


def drawn(system: CodeSystem, labels: Tensor) -> Tensor:
    """As many codes drawn as there are labels, each by a seed of its own."""
    seeds = torch.arange(len(labels))
    batches = zip(labels.split(AT_A_TIME), seeds.split(AT_A_TIME), strict=True)
    return torch.cat([system.draw_latents(told, own) for told, own in batches])


def spread(values: Sequence[float]) -> str:
    """The mean, with the least and the most of several seeds."""
    return f"{fmean(values):.4g}" + (f" ({min(values):.4g} … {max(values):.4g})" if len(values) > 1 else "")


def differ(some: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two means are further apart than twice the standard error of their difference, over seeds."""
    if min(len(some), len(others)) < 2:
        return False
    error = math.sqrt(stdev(some) ** 2 / len(some) + stdev(others) ** 2 / len(others))
    return abs(fmean(some) - fmean(others)) > 2 * error


def seeds_of(kind: str, seeds: int) -> list[str]:
    """The names of a kind's runs."""
    return [f"{kind}-{seed}" for seed in range(seeds)]


def cosines(system: CodeSystem, images: Tensor, labels: Tensor, tasks: Subtasks) -> dict[str, Any]:
    """How the gradients of a model's sub-tasks lie to each other: the matrix, NaN as None, and its least entry."""
    codes = torch.cat([system.codec.encode(some) for some in images.split(AT_A_TIME)])
    found = gradient_cosines(system.model, tasks, codes, labels, seeds=torch.arange(len(codes))).cosines
    rows = [[value if math.isfinite(value) else None for value in row] for row in found.tolist()]
    return {"subtasks": tasks.names, "cosines": rows, "least_cosine": float(found.nan_to_num(0).min())}

"""The part `subtasks` of the study of paths: are the times of a path in each other's way, less so for learned ones?

The same network learns a fixed schedule, a learned one (VDM), and bridges: DSB by each of its targets, of which the
last three are the simplified DSB, and DSB matching. The network back to the images has the same number of steps in all.
Then its sub-tasks are fourths of the time that training draws evenly: how much of what tuning on one is worth helps
another one, and the cosine of their gradients, where these stand out of the noise. Seeds are paired: differences are to
the fixed schedule of the same seed, with the intervals of t.

`python -m benchmarks.paths_subtasks CASE SEED STEPS SHORT OUT` trains and measures one run, as the study calls it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from scipy.stats import t as student
from torch import Tensor

from visgen_fast import ops
from visgen_fast.data.images import digits, to_range
from visgen_fast.diffusion import CosineVP, DiffusionObjective, UniformTimes
from visgen_fast.diffusion.learned_schedule import LearnedVP
from visgen_fast.diffusion.low_discrepancy_times import LowDiscrepancyTimes
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.diffusion.weights import ELBO
from visgen_fast.evaluation import Times, equivariance
from visgen_fast.evaluation.measuring import Pictures
from visgen_fast.models import DiT
from visgen_fast.nn.class_condition import Labels
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.systems.schrodinger import SchroedingerSystem
from visgen_fast.systems.variational import VariationalSystem
from visgen_fast.tokenizers.first_stage import Pixels
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings
from visgen_fast.training.system import System

from . import studies
from .decomposition_measures import seeds_of, spread
from .table import as_markdown

FIXED = "fixed schedule"
BRIDGES: dict[str, tuple[str, dict[str, str]]] = {
    "DSB": ("dsb", {"target": "mean"}),
    "DSB, previous state": ("dsb", {"target": "previous"}),
    "DSB, terminal": ("dsb", {"target": "terminal"}),
    "DSB, flow": ("dsb", {"target": "flow"}),
    "DSB matching": ("dsb-matching", {}),
}
CASES = (FIXED, "learned schedule", *BRIDGES)
_TIMES = 4
_TRAINING: dict[str, Any] = {"batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 50, "ema_decay": 0.99}


def train(folder: Path, options: argparse.Namespace) -> int:
    """Trains and measures what is missing; how many failed."""
    failed, steps = 0, 4 if options.short else 1000
    names = [name for case in CASES for name in seeds_of(case, options.seeds)]
    missing = [name for name in names if not _file(folder, name).exists()]

    def work(name: str) -> str | None:
        case, _, seed = name.rpartition("-")
        told = [case, seed, str(steps), str(int(options.short)), str(_file(folder, name).resolve())]
        command = [sys.executable, "-m", "benchmarks.paths_subtasks", *told]
        return studies.run_logged(command, _file(folder, name).with_suffix(".log"))[1]

    with studies.jobs(options.jobs) as pool:
        for name, complaint in studies.finished(pool, work, missing):
            print(f"{name}: {complaint or 'measured'}", flush=True)
            failed += complaint is not None
    return failed


def report(folder: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes table.md and subtasks.png; what was measured, an entry a run."""
    found = {case: [studies.read(_file(folder, name)) for name in seeds_of(case, options.seeds)] for case in CASES}
    apart = {
        case: [one["transfer"] - fixed["transfer"] for one, fixed in zip(found[case], found[FIXED], strict=True)]
        for case in CASES
    }
    rows = [
        (
            case,
            spread([run["transfer"] for run in found[case]]),
            "–" if case == FIXED else _interval(apart[case])[2],
            spread(known) if (known := [run["cosine"] for run in found[case] if isfinite(run["cosine"])]) else "–",
        )
        for case in CASES
    ]
    below = {case for case in CASES[1:] if _interval(apart[case])[1] < 0}
    above = {case for case in CASES[1:] if _interval(apart[case])[0] > 0}
    verdict = (
        "The transfer between times is 1 where another time teaches as well as the same one. Above that of the fixed "
        f"schedule it is for {_listed(above)}; below it for {_listed(below)}."
    )
    heads = ("path", "transfer between times", "difference to the fixed schedule, 95%", "cosine of gradients")
    (out / "table.md").write_text(f"# Sub-tasks of learned paths\n\n{verdict}\n\n{as_markdown(heads, rows)}\n")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="transfer between times (1: as good as the same time)")
    for place, case in enumerate(CASES):
        axes.plot([run["transfer"] for run in found[case]], [place] * options.seeds, "o", color="#0b6e4f")
    axes.set_yticks(range(len(CASES)), CASES)
    axes.invert_yaxis()
    figure.savefig(out / "subtasks.png", dpi=110)
    return [run for case in CASES for run in found[case]]


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def _interval(differences: Sequence[float]) -> tuple[float, float, str]:
    """The 95% interval of the mean by t, and both as text; one seed has no interval."""
    values = torch.tensor(differences, dtype=torch.float64)
    if len(values) < 2:
        return -torch.inf, torch.inf, f"{float(values.mean()):+.3f}"
    reach = float(student.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5)
    low, high = float(values.mean()) - reach, float(values.mean()) + reach
    return low, high, f"{float(values.mean()):+.3f} ({low:+.3f} … {high:+.3f})"


def _listed(names: set[str]) -> str:
    return ", ".join(name for name in CASES if name in names) or "none"


def run(case: str, seed: int, steps: int, short: bool) -> dict[str, Any]:
    """Trains a case and measures its sub-tasks."""
    size = {"width": 8, "depth": 1, "heads": 1} if short else {"width": 64, "depth": 3, "heads": 4}
    images = digits()
    torch.manual_seed(seed)
    whole = steps * (2 if case in BRIDGES else 1)  # of both networks
    if case in BRIDGES:
        recipe, target = BRIDGES[case]
        turns = {"turn_steps": max(1, steps // 4), "refresh": max(1, steps // 8), "cache": 16 if short else 512}
        loaded = load_recipe(recipe)
        settings = loaded.settings_for("digits", **size, **turns, **target, seed=seed, label_drop=0.0)
        system: System = build(loaded, settings, images.format)
    else:
        system = _diffusion(case, images.format.shape, len(images.format.class_names), size, seed)
    told = TrainingSettings(steps=whole, seed=seed, device="cpu", lr_schedule="cosine", **_TRAINING)
    trainer = Trainer(system, images, Run(Path("unwritten"), told, identity={}))
    for _ in range(whole):
        trainer.optimize()
    count = 16 if short else 1400  # of 1797: tuned on fewer, a sub-task forgets more than it learns
    model, losses, some = _measured(system, images.pixels, images.labels, count, whole)
    tasks, tuning = Times(losses, _TIMES), 2 if short else 200
    found = equivariance(
        model, tasks, some.x, some.labels, seeds=some.seeds, steps=tuning, learning_rate=1e-4, repeats=2
    )
    return {"case": case, "seed": seed, "transfer": found.transfer.value, "cosine": found.cosine.value}


def _diffusion(case: str, shape: Sequence[int], classes: int, size: dict[str, int], seed: int) -> System:
    """A diffusion model of pixels, on a fixed or on a learned schedule."""
    learned, sampler = case != FIXED, SamplerSettings(steps=20, guidance=1.0)
    told: Any = "log_snr" if learned else "time"
    model = DiT(
        image_size=(shape[1], shape[2]), channels=shape[0], patch_size=2, classes=classes, conditioning=told, **size
    )
    parts = (Labels(classes, 0.0), Pixels(tuple(shape)))
    if not learned:
        objective = DiffusionObjective(CosineVP(), "epsilon", UniformTimes())
        return PriorSystem(DiffusionPrior(model, objective, sampler), *parts)
    schedule, times = LearnedVP(-5.0, 13.3, learn_ends=True), LowDiscrepancyTimes(UniformTimes(), seed=seed)
    objective = DiffusionObjective(schedule, "epsilon", times, weight=ELBO(), conditioning=told)
    return VariationalSystem(DiffusionPrior(model, objective, sampler), *parts)


def _measured(
    system: System, pixels: Tensor, labels: Tensor, count: int, steps: int
) -> tuple[torch.nn.Module, Callable[..., Tensor], Pictures]:
    """The network whose sub-tasks are measured, its loss at times, and what it learns from."""
    seeds = ops.derive_seeds(1, torch.arange(count), purpose=ops.Purpose.LIKELIHOOD)
    if isinstance(system, PriorSystem):
        objective = cast(DiffusionPrior, system.prior).objective
        objective.requires_grad_(False)

        def at(model: Callable[..., Tensor], some: Pictures, share: Tensor) -> Tensor:
            return objective.losses_at(model, some.x, some.labels, some.seeds, share)

        return system.model, at, Pictures(to_range(pixels[:count]), labels[:count], seeds)
    assert isinstance(system, SchroedingerSystem)
    system.size = count
    system.before_step(steps - steps % (2 * system.turn_steps) + 2 * system.turn_steps)  # a turn of `backward`
    drawn, own = dict(system.drawn), system.drawn["labels"]
    keys = [key for key in drawn if key != "labels"]
    flat = torch.stack([drawn[key] for key in keys], 1)
    system.forward_model.requires_grad_(False)

    def bridge_at(model: Callable[..., Tensor], some: Pictures, share: Tensor) -> Tensor:
        parts = {**dict(zip(keys, some.x.unbind(1), strict=True)), "labels": some.labels}
        return cast(SchroedingerSystem, model).losses_at("backward", share, parts, some.labels, some.seeds)

    return system, bridge_at, Pictures(flat, own, seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """One run of the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paths_subtasks", description=__doc__)
    parser.add_argument("case", choices=CASES)
    for name in ("seed", "steps", "short"):
        parser.add_argument(name, type=int)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    studies.write(options.out, run(options.case, options.seed, options.steps, bool(options.short)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The part `energies` of the study of paths: digits drawn from energies, and from sums of two classes' energies."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion import annealed_langevin, plan, sample
from visgen_fast.diffusion.prior import DiffusionPrior
from visgen_fast.energies import Composition
from visgen_fast.recipes.runs import load_system, trained_classifier
from visgen_fast.systems.generative import GenerativeSystem, draw_samples
from visgen_fast.systems.prior import PriorSystem

from .decomposition_measures import measured
from .sheet import show_rows
from .table import as_markdown
from .trainings import train_all

RUNS = ("energy", "contrastive-energy")
PAIRS = ((3, 8), (4, 9), (1, 7))
ACCEPTED = 0.1  # of the classifier's probability: what it takes a picture for, at least as much as all ten alike
_SHOWN = 8


def stages(steps: int, short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name; the classifier beside the energies."""
    small = ["--width=8", "--depth=1", "--heads=1", "--batch-size=4"] if short else ["--width=64", "--depth=3"]
    length, few = (4, 4) if short else (steps, steps // 4)  # of a step of chains, which costs twenty others
    chains = ["--buffer-steps=2", "--chain-steps=1", "--per-class=2"] if short else []
    return [
        {
            "classifier": ["classifier", "--dataset=digits", f"--steps={4 if short else 300}"],
            "energy": ["energy", f"--steps={length}", *small],
            "contrastive-energy": ["contrastive-energy", f"--steps={few}", *small, *chains],
        }
    ]


def train(folder: Path, options: argparse.Namespace) -> int:
    """Trains what is missing; how many failed."""
    return train_all(stages(options.steps, options.short), folder, options.jobs)


def report(folder: Path, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Writes table.md and energies.png; what was measured, an entry a run and a pair of classes."""
    count, steps = (2, 2) if options.short else (options.pictures, 20)
    entries = [measured(folder, name, lambda name=name: _recognised(folder, name, count)) for name in RUNS]
    sums = [measured(folder, f"sum-{a}-{b}", lambda pair=(a, b): _sums(folder, pair, count, steps)) for a, b in PAIRS]
    names = [*RUNS, *(f"{a} and {b}" for a, b in PAIRS)]
    shown = [torch.tensor(entry.pop("shown")) for entry in (*entries, *sums)]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    show_rows(figure.add_subplot(), dict(zip(names, shown, strict=True)))
    figure.savefig(out / "energies.png", dpi=110)
    drawn = [(entry["run"], f"{entry['recognised']:.1%}") for entry in entries]
    both = [(f"{a} and {b}", *(f"{entry[key]:.1%}" for key in ("sum", "first", "second")))
            for (a, b), entry in zip(PAIRS, sums, strict=True)]  # fmt: skip
    holds = [entry["sum"] > max(entry["first"], entry["second"]) for entry in sums]
    verdict = (
        f"Of the digits of the recipe `energy` {entries[0]['recognised']:.0%} are recognised; of `contrastive-energy`, "
        f"after a fourth of the steps, {entries[1]['recognised']:.0%}, where chance gives 10%. For {sum(holds)} of "
        f"{len(holds)} pairs the sum of two classes' energies gives pictures of both more often than either alone does."
    )
    tables = as_markdown(("recipe", "recognised"), drawn) + "\n\n" + as_markdown(
        ("classes", "taken for both: by their sum", "by the first alone", "by the second alone"), both
    )  # fmt: skip
    (out / "table.md").write_text(f"# Energies of digits\n\n{verdict}\n\n{tables}\n")
    return [*entries, *sums]


def _recognised(folder: Path, name: str, count: int) -> dict[str, Any]:
    system = cast(GenerativeSystem, load_system(folder / name))
    classify = trained_classifier(folder / "classifier", 1)
    drawn = draw_samples(system, range(10), count, seed=0, device="cpu")
    with torch.no_grad():
        right = [(classify(row).argmax(1) == label).double().mean() for label, row in enumerate(drawn)]
    return {"recognised": float(torch.stack(right).mean()), "shown": _rounded(drawn[:_SHOWN, 0])}


@torch.no_grad()
def _sums(folder: Path, pair: tuple[int, int], count: int, steps: int) -> dict[str, Any]:
    """How often the classifier takes a picture for both classes, drawn from the sum of their energies or from one."""
    system = cast(PriorSystem, load_system(folder / "energy"))
    classify, prior = trained_classifier(folder / "classifier", 1), cast(DiffusionPrior, system.prior)
    table = plan(annealed_langevin, prior.objective.schedule, "epsilon", steps=steps, corrections=2)

    def drawn(network: Callable[..., Tensor], label: int) -> Tensor:
        seeds = ops.derive_seeds(0, torch.arange(count), step=label)
        return sample(network, table, system.shape, torch.full((count,), label), seeds)

    def both(pictures: Tensor) -> float:
        taken = classify(pictures).softmax(1)[:, list(pair)] >= ACCEPTED
        return float(taken.all(1).double().mean())

    together = drawn(Composition(prior.model, [(label, 1.0) for label in pair]), pair[0])
    alone = {name: both(drawn(prior.model, label)) for name, label in zip(("first", "second"), pair, strict=True)}
    return {"sum": both(together), **alone, "shown": _rounded(together[:_SHOWN])}


def _rounded(pictures: Tensor) -> Any:
    return pictures.mul(1e3).round().div(1e3).tolist()

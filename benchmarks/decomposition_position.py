"""The part `position` of the study of decompositions: one network, equal steps, five orders of the same pixels."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visgen_fast.evaluation.subtasks import by_row
from visgen_fast.systems.codes import CodeSystem

from .decomposition_measures import bits_of, cosines, differ, held_out, measured, seeds_of, spread
from .table import as_markdown

ORDERS = ("raster", "columns", "snake", "tiles", "shuffled")


def stages(folder: Path, seeds: int, short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name; no stage needs another."""
    common = ["pixel-gpt", "--dataset=digits", f"--steps={4 if short else 700}", "--tile=4"]
    common += ["--width=8", "--depth=1", "--batch-size=4"] if short else []
    kinds = [(order, seed) for order in ORDERS for seed in range(seeds)]
    return [{f"{order}-{seed}": [*common, f"--order={order}", f"--seed={seed}"] for order, seed in kinds}]


def report(folder: Path, out: Path, seeds: int, pictures: int, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and position.png; what was measured, an entry a run."""
    entries = {
        name: measured(folder, name, lambda name=name: _measure(folder / name, pictures))
        for order in ORDERS
        for name in seeds_of(order, seeds)
    }
    bits = {order: [entries[name]["bits_per_dim"] for name in seeds_of(order, seeds)] for order in ORDERS}
    alike = {order: [entries[name]["least_cosine"] for name in seeds_of(order, seeds)] for order in ORDERS}
    rows = [(order, spread(bits[order]), spread(alike[order])) for order in ORDERS]
    best, worst = (choose(ORDERS, key=lambda order: fmean(bits[order])) for choose in (min, max))
    places = {order: _mean([entries[name]["by_place"] for name in seeds_of(order, seeds)]) for order in ORDERS}
    highest, lowest = (f"{float(choose(places[best])):.2f}" for choose in (torch.max, torch.min))
    verdict = (
        f"Orders are not equivalent: {worst} costs {fmean(bits[worst]) - fmean(bits[best]):.3f} bits per dimension "
        f"more than {best}, beyond the spread of seeds."
        if differ(bits[best], bits[worst])
        else "No order differs from another by more than the spread of seeds."
    )
    (out / "table.md").write_text(
        f"# Position\n\n{verdict} Nor are places: in {best} one costs from {lowest} to {highest} bits.\n\n"
        + as_markdown(("order", "bits per dimension", "least cosine of the gradients of two rows"), rows)
        + "\n"
    )
    figure = Figure(figsize=(3 * len(ORDERS), 3.2), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, len(ORDERS), squeeze=False)[0])
    most = max(float(place.max()) for place in places.values())
    for panel, order in zip(axes, ORDERS, strict=True):
        shown = panel.imshow(places[order].numpy(), cmap="viridis", vmin=0, vmax=most)
        panel.set(xticks=[], yticks=[], title=f"{order}: {fmean(bits[order]):.3f}")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="bits at each place")
    figure.savefig(out / "position.png", dpi=110)
    return list(entries.values())


def _measure(run: Path, pictures: int) -> dict[str, Any]:
    system, images, labels = held_out(run, pictures)
    assert isinstance(system, CodeSystem)
    bits = bits_of(system, images, labels)
    by_place = bits.mean(0).sum(-1)
    return {
        **cosines(system, images, labels, by_row(bits.shape[1:])),
        "bits_per_dim": float(bits.mean()),
        "by_place": by_place.tolist(),
    }


def _mean(maps: list[list[list[float]]]) -> torch.Tensor:
    return torch.tensor(maps, dtype=torch.float64).mean(0)

"""The part `planes` of the study of decompositions: what each bit of a pixel costs, and what the last three buy."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visgen_fast.data.images import AT_A_TIME
from visgen_fast.evaluation.fid import distances
from visgen_fast.evaluation.subtasks import CodeParts
from visgen_fast.recipes.runs import trained_classifier
from visgen_fast.systems.codes import CodeSystem

from .decomposition_measures import bits_of, cosines, held_out, measured, seeds_of, spread
from .table import as_markdown

BITS = (5, 8)
LAST = 3


def stages(folder: Path, seeds: int, short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name; the classifier beside the models."""
    images = ["--dataset=digits", "--size=4"] if short else ["--dataset=fashion-mnist", "--size=12"]
    small = ["--width=8", "--depth=1", "--heads=1", "--batch-size=4"] if short else ["--width=64", "--batch-size=16"]
    found = {"classifier": ["classifier", *images, f"--steps={4 if short else 1500}"]}
    for bits in BITS:
        for seed in range(seeds):
            told = [*images, f"--steps={4 if short else 2000}", f"--seed={seed}", f"--levels={2**bits}"]
            found[f"{bits}-{seed}"] = ["pixel-gpt", *told, *small, "--layout=planes", "--order=planes"]
    return [found]


def report(folder: Path, out: Path, seeds: int, pictures: int, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and planes.png; what was measured, an entry a run."""
    entries = {
        name: measured(folder, name, lambda name=name: _measure(folder, name, pictures))
        for bits in BITS
        for name in seeds_of(str(bits), seeds)
    }
    of = {bits: [entries[name] for name in seeds_of(str(bits), seeds)] for bits in BITS}
    means = {bits: torch.tensor([one["by_plane"] for one in of[bits]], dtype=torch.float64).mean(0) for bits in BITS}
    planes = [
        (
            str(plane + 1),
            *(spread([one["by_plane"][plane] for one in of[bits]]) if plane < bits else "–" for bits in BITS),
        )
        for plane in range(max(BITS))
    ]
    sums = ("all", *(spread([sum(one["by_plane"]) for one in of[bits]]) for bits in BITS))
    rows = [*planes, sums, ("rFID", *(spread([one["rfid"] for one in of[bits]]) for bits in BITS))]
    last = means[max(BITS)][-LAST:]
    holds = bool((last > 0.9).all())
    verdict = (
        f"The last {LAST} planes cost {', '.join(f'{cost:.2f}' for cost in last.tolist())} bits of a value each"
        + (", nearly one: they are noise to the model." if holds else ": not one each, on these images.")
        + f" Leaving them out has an rFID of {fmean([one['rfid'] for one in of[min(BITS)]]):.3g}."
    )
    heads = ("plane", *(f"{bits} bits" for bits in BITS))
    (out / "table.md").write_text(f"# Planes\n\n{verdict}\n\n{as_markdown(heads, rows)}\n")
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes: Axes = figure.add_subplot(xlabel="plane, most significant first", ylabel="bits of a value", ylim=(0, 1.05))
    for bits in BITS:
        axes.plot(range(1, bits + 1), means[bits].tolist(), ".-", label=f"{bits} bits")
    axes.legend()
    figure.savefig(out / "planes.png", dpi=110)
    return list(entries.values())


def _measure(folder: Path, name: str, pictures: int) -> dict[str, Any]:
    system, images, labels = held_out(folder / name, pictures)
    assert isinstance(system, CodeSystem)
    bits = bits_of(system, images, labels).mean(0)
    channels = images.shape[1]
    codes = system.codec.encode(images)
    embed = trained_classifier(folder / "classifier", channels).embedding
    rebuilt = system.codec.decode(codes)
    shown = zip(images.split(AT_A_TIME), rebuilt.split(AT_A_TIME), strict=True)
    with torch.no_grad():
        pairs = [(embed(one), embed(two)) for one, two in shown]
    planes = torch.arange(codes.shape[-1]) // channels
    tasks = CodeParts([f"plane {plane + 1}" for plane in range(int(planes[-1]) + 1)], planes.expand(codes.shape[1:]))
    return {
        **cosines(system, images, labels, tasks),
        "by_plane": bits.flatten(0, -2).mean(0).unflatten(0, (-1, channels)).mean(1).tolist(),
        "rfid": distances(pairs)[0],
    }

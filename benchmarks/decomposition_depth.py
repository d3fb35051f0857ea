"""The part `depth` of the study of decompositions: residual codes of several depths, and the bits that buy nothing."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast.data.images import AT_A_TIME
from visgen_fast.evaluation import prefix_errors
from visgen_fast.evaluation.fid import distances
from visgen_fast.evaluation.subtasks import by_depth
from visgen_fast.recipes.runs import trained_classifier
from visgen_fast.systems.codes import CodeSystem
from visgen_fast.tokenizers import GridTokenizer

from .decomposition_measures import bits_of, cosines, differ, drawn, held_out, measured, seeds_of, spread
from .table import as_markdown

DEPTHS = (4, 8, 16)


def stages(folder: Path, seeds: int, short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name: classifier and tokenizers, then the models of their codes."""
    steps = 4 if short else 2000
    images = ["--dataset=digits" if short else "--dataset=fashion-mnist"]
    small = ["--widths", "4", "--codes=16", "--batch-size=4"] if short else []
    first = {"classifier": ["classifier", *images, f"--steps={4 if short else 1500}"]}
    second: dict[str, list[str]] = {}
    for depth in DEPTHS:
        for seed in range(seeds):
            told = [*images, f"--steps={steps}", f"--seed={seed}"]
            first[f"rq-{depth}-{seed}"] = ["rq-vae", *told, *small, f"--depth={depth}"]
            network = ["--width=8", "--depth=1", "--heads=1", "--batch-size=4"] if short else []
            stage = f"--first-stage={folder / f'rq-{depth}-{seed}'}"
            second[f"{depth}-{seed}"] = ["rq-transformer", *told, *network, stage]
    return [first, second]


def report(folder: Path, out: Path, seeds: int, pictures: int, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and depth.png; what was measured, an entry a run."""
    entries = {
        name: measured(folder, name, lambda name=name: _measure(folder, name, pictures))
        for depth in DEPTHS
        for name in seeds_of(str(depth), seeds)
    }
    of = {depth: [entries[name] for name in seeds_of(str(depth), seeds)] for depth in DEPTHS}
    wasted = {depth: [entry["wasted"] for entry in of[depth]] for depth in DEPTHS}
    columns = ("bits_per_image", "first", "last", "least_cosine")
    rows = [
        (str(depth), *(spread([entry[name] for entry in of[depth]]) for name in columns),
         spread(wasted[depth]), spread([entry["fid"][-1] for entry in of[depth]]),
         spread([min(entry["fid"]) for entry in of[depth]])) for depth in DEPTHS
    ]  # fmt: skip
    ends = {depth: [[entry[name] for entry in of[depth]] for name in ("first", "last")] for depth in DEPTHS}
    unlike = [depth for depth in DEPTHS if differ(*ends[depth])]
    alike = "In no tokenizer do the first and the last depth differ by more than the spread of seeds."
    verdict = (
        f"Depths are not equivalent: {', '.join(map(str, unlike))} deep, a first code costs other bits than a last one."
        if unlike
        else alike
    )
    heads = ("depth", "bits per image", "first code", "last code", "least cosine", "wasted", "FID", "least FID, cut")
    (out / "table.md").write_text(
        f"# Depth\n\n{verdict} Of the bits, {fmean(wasted[DEPTHS[-1]]):.0%} at depth {DEPTHS[-1]} and "
        f"{fmean(wasted[DEPTHS[0]]):.0%} at depth {DEPTHS[0]} are of codes after the best prefix.\n\n"
        + as_markdown(heads, rows)
        + "\n"
    )
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes: list[Axes] = list(figure.subplots(1, 2))
    for depth in DEPTHS:
        places = range(1, depth + 1)
        for panel, name in zip(axes, ("by_depth", "fid"), strict=True):
            mean = torch.tensor([entry[name] for entry in of[depth]], dtype=torch.float64).mean(0)
            panel.plot(places, mean.tolist(), ".-", label=f"{depth} deep")
    axes[0].set(xlabel="depth", ylabel="bits of a code")
    axes[1].set(xlabel="codes that are decoded", ylabel="FID of drawn images", yscale="log")
    axes[0].legend()
    figure.savefig(out / "depth.png", dpi=110)
    return list(entries.values())


def _measure(folder: Path, name: str, pictures: int) -> dict[str, Any]:
    system, images, labels = held_out(folder / name, pictures)
    assert isinstance(system, CodeSystem) and isinstance(system.tokenizer, GridTokenizer)
    bits, tokenizer = bits_of(system, images, labels), system.tokenizer
    errors = torch.cat([prefix_errors(tokenizer, some).pixel for some in images.split(AT_A_TIME)])
    embed = trained_classifier(folder / "classifier", images.shape[1]).embedding
    of_depth = bits.flatten(1, -2).mean((0, 1))
    return {
        **cosines(system, images, labels, by_depth(bits.shape[1:])),
        "bits_per_image": float(bits.flatten(1).sum(1).mean()),
        "by_depth": of_depth.tolist(),
        "first": float(of_depth[0]),
        "last": float(of_depth[-1]),
        "wasted": wasted_share(bits, errors),
        "fid": _cut(tokenizer, drawn(system, labels), images, embed),
    }


def wasted_share(bits: Tensor, errors: Tensor) -> float:
    """The share of the bits [N, *grid, Q] that is of codes after each picture's best prefix.

    errors: [N, Q + 1], of prefixes of 0 … Q codes; the best is the shortest of least error.
    """
    best = (errors == errors.amin(1, keepdim=True)).double().argmax(1)
    by_depth = bits.flatten(1, -2).sum(1)
    after = torch.arange(1, by_depth.shape[1] + 1)[None] > best[:, None]
    return float((by_depth * after).sum() / by_depth.sum())


@torch.no_grad()
def _cut(tokenizer: GridTokenizer, codes: Tensor, images: Tensor, embed: Any) -> list[float]:
    """The Fréchet distance of drawn images decoded from their first 1 … Q codes."""
    real = [embed(some) for some in images.split(AT_A_TIME)]
    found = []
    for depth in range(1, codes.shape[-1] + 1):
        shown = [tokenizer.decode(some[..., :depth]).clamp(-1, 1) for some in codes.split(AT_A_TIME)]
        found.append(distances([(one, embed(two)) for one, two in zip(real, shown, strict=True)])[0])
    return found

"""The study of noise levels as table.md, images of each data set, and parts of README.md and of a page in docs/."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .noise_levels_effects import MEASURES, Entry, effects
from .noise_levels_variants import BASELINE, file_name
from .table import as_markdown

Descriptions = Mapping[str, Mapping[str, str]]

_COLOURS = {
    **{"cosine": "#222222", "shifted": "#0b6e4f", "multiscale": "#c44536", "shifted multiscale": "#e09f3e"},
    **{"min-snr": "#457b9d", "laplace": "#6d6875", "sigmoid": "#d36fa5", "x-prediction": "#7f4f24"},
    **{"v, large patches": "#222222", "x, large patches": "#0b6e4f", "epsilon, large patches": "#c44536"},
}
_LEGEND = """\
Variants of a seed have the same first weights, images, order and noise; each is compared with the run of its baseline
and the same seed. All are measured alike: at the same levels of λ, with the same noise, along the same sampling steps.

- *Low-resolution error*: the mean square error of x̂ averaged to 8×8 pixels, on held-out images, logarithmic mean over
  the levels named; *error* is that of the pixels.
- *Importance-weighted loss*: the error of ε̂, weighed by a Laplace density of λ of scale ½ about −2.77, where an average
  of 4×4 pixels has as much signal as noise.
- *Steps to the baseline's final loss*: of training, until that loss on some of the images is what the baseline ends
  with. *never*: not in all steps.
- *Kernel distance*: between samples, without guidance, and held-out images, in features of a classifier of our own.

An effect is a change of the mean over pairs, ± its standard error. It is claimed where all pairs agree in sign and
their mean exceeds twice its standard error; else it is *not seen*. Minus is better.
"""


def write_report(entries: Sequence[Entry], variants: Descriptions, out: Path, runs: Path) -> None:
    """Writes table.md and images into the folder `out`; samples are taken from where the runs are."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(as_document(entries, variants))
    for dataset, chosen in _by_dataset(entries).items():
        plot_dataset(dataset, chosen, variants, out / f"{dataset}.png")
        draw_samples(chosen, runs / dataset, out / f"{dataset}-samples.png")


def as_document(entries: Sequence[Entry], variants: Descriptions) -> str:
    """The tables of each data set, effects and then values, with what they mean."""
    parts = ["# Noise levels: what schedules, weights and losses do at high resolution", _LEGEND, _list(variants)]
    for dataset, chosen in _by_dataset(entries).items():
        first = chosen[0]
        parts.append(f"## {dataset}: {first['steps']} steps, {_counted(len({e['seed'] for e in chosen}), 'seed')}")
        parts.append(effects_table(chosen, variants))
        parts.append("Means over seeds:")
        parts.append(values_table(chosen))
        real = first["evaluation"]["kernel_distance_of_images"]
        parts.append(f"Training images are at a kernel distance of {real:.3g} from the held-out ones.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def effects_table(entries: Sequence[Entry], variants: Descriptions) -> str:
    """A row a variant: the effect on each measure."""
    found = effects(entries, _baselines(variants))
    header = [f"against {BASELINE}", *(measure.name for measure in MEASURES)]
    rows = []
    for name, of_variant in found.items():
        baseline = variants[name]["baseline"]
        shown = name if baseline == BASELINE else f"{name}, against {baseline}"
        rows.append([shown, *(one.text(of_variant[one.name]) for one in MEASURES)])
    return as_markdown(header, rows)


def values_table(entries: Sequence[Entry]) -> str:
    """A row a variant: the mean over seeds of each measure."""
    names = dict.fromkeys(entry["variant"] for entry in entries)
    found = {name: [entry["evaluation"] for entry in entries if entry["variant"] == name] for name in names}
    header = ["variant", *(measure.name.replace("the baseline's", "its own") for measure in MEASURES)]
    rows = [
        [name, *(f"{fmean(one.value(evaluation) for evaluation in runs):.3g}" for one in MEASURES)]
        for name, runs in found.items()
    ]
    return as_markdown(header, rows)


def block(results: Path, page: Path) -> str:
    """A page's part of what the study stored as `results`, with links relative to the page; "" without results."""
    if not results.exists():
        return ""
    stored, folder = json.loads(results.read_text()), Path(os.path.relpath(results.parent, page.parent)).as_posix()
    parts = []
    for dataset, chosen in _by_dataset(stored["entries"]).items():
        parts.append(f"![{dataset}: errors over those of the baseline, and the loss by step]({folder}/{dataset}.png)")
        parts.append(effects_table(chosen, stored["variants"]))
        parts.append(f"![{dataset}: samples of each variant, from the same noise]({folder}/{dataset}-samples.png)")
    parts.append(_list(stored["variants"]))
    source = f"torch {stored['versions']['torch']}, commit {stored['commit']}, {stored['date'][:10]}"
    parts.append(f"[All measures]({folder}/table.md), with {source}.")
    return "\n\n".join(parts) + "\n"


def headline(results: Path, page: Path) -> str:
    """A sentence for the README: what was seen of the most sensitive measure; "" without results."""
    if not results.exists():
        return ""
    stored, measure = json.loads(results.read_text()), MEASURES[0]
    sentences = []
    for dataset, chosen in _by_dataset(stored["entries"]).items():
        found = effects(chosen, _baselines(stored["variants"]))
        seen = [
            f"*{name}* {measure.text(effect)}"
            for name, of_variant in found.items()
            if stored["variants"][name]["baseline"] == BASELINE and (effect := of_variant[measure.name]).seen
        ]
        sentences.append(f"On {dataset} at 64²: {', '.join(seen) if seen else 'no effect seen'}.")
    return (
        "Measured, on paired seeds: how schedules, weights and losses change the error of structure "
        f"({measure.name}) against the cosine schedule. {' '.join(sentences)}\n"
    )


def plot_dataset(dataset: str, entries: Sequence[Entry], variants: Descriptions, out: Path) -> None:
    """Errors by λ over those of the baseline, and the loss by step: a row of axes for each baseline."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(entry["variant"] for entry in entries):
        groups.setdefault(variants[name]["baseline"], []).append(name)
    runs = {(entry["variant"], entry["seed"]): entry["evaluation"] for entry in entries}
    figure = Figure(figsize=(15, 0.6 + 4.4 * len(groups)), layout="constrained")
    figure.suptitle(f"{dataset}: noise levels, {_counted(len({seed for _, seed in runs}), 'seed')}")
    rows: Any = figure.subfigures(len(groups), 1, squeeze=False)
    for part, (baseline, names) in zip(rows[:, 0], groups.items(), strict=True):
        low, full, curve = part.subplots(1, 3)
        for name in names:
            of_seeds = {seed: found for (variant, seed), found in runs.items() if variant == name}
            _curve(curve, name, list(of_seeds.values()))
            pairs = [(found, runs[baseline, seed]) for seed, found in of_seeds.items() if (baseline, seed) in runs]
            if pairs and name != baseline:
                _ratios(low, name, pairs, "low_resolution_error")
                _ratios(full, name, pairs, "error")
        low.set_title(f"error of x̂ at 8×8 pixels, over that of {baseline}")
        full.set_title(f"error of x̂, over that of {baseline}")
        for axes in (low, full):
            _finish_ratios(axes)
        curve.set(yscale="log", xlabel="step", title="importance-weighted loss, averaged weights")
        curve.grid(alpha=0.25, which="both")
        part.legend(*curve.get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(out, dpi=110)


def _ratios(axes: Axes, name: str, pairs: Sequence[tuple[Entry, Entry]], error: str) -> None:
    """The mean over seeds, and the range of them."""
    levels = pairs[0][0]["log_snr"]
    by_seed = [[a / b for a, b in zip(one[error], other[error], strict=True)] for one, other in pairs]
    by_level = list(zip(*by_seed, strict=True))
    colour = _COLOURS.get(name, "#888888")
    axes.fill_between(levels, *zip(*map(_range, by_level), strict=True), color=colour, alpha=0.2, linewidth=0)
    axes.plot(levels, list(map(fmean, by_level)), color=colour, marker="o", markersize=3, label=name)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _finish_ratios(axes: Axes) -> None:
    axes.axhline(1, color="#222222", linewidth=1)
    low, high = axes.get_ylim()
    axes.set(yscale="log", xlabel="λ, from noise to data", ylim=(max(min(low, 0.9), 0.25), min(max(high, 1.1), 6)))
    axes.yaxis.set_major_locator(FixedLocator([0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 2.8, 4, 5.6]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.grid(alpha=0.25)


def _curve(axes: Axes, name: str, found: Sequence[Entry]) -> None:
    steps = found[0]["curve"]["steps"]
    by_step = list(zip(*(one["curve"]["importance_weighted_loss"] for one in found), strict=True))
    colour = _COLOURS.get(name, "#888888")
    axes.fill_between(steps, *zip(*map(_range, by_step), strict=True), color=colour, alpha=0.2, linewidth=0)
    axes.plot(steps, list(map(fmean, by_step)), color=colour, label=name)


def draw_samples(entries: Sequence[Entry], runs: Path, out: Path) -> None:
    """A row a variant of what its first seed drew, all from the same noise, where the runs are still there."""
    import torch
    from safetensors.torch import load_file

    from visgen_fast.training.figures import image_grid

    names, rows = [], []
    for name in dict.fromkeys(entry["variant"] for entry in entries):
        path = runs / f"{file_name(name, 0)}.safetensors"
        if path.exists():
            names.append(name)
            rows.append(load_file(path)["samples"])
    if rows:
        image_grid(torch.stack(rows), names).save(out)


def _by_dataset(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    names = dict.fromkeys(entry["dataset"] for entry in entries)
    return {name: [entry for entry in entries if entry["dataset"] == name] for name in names}


def _baselines(variants: Descriptions) -> dict[str, str]:
    return {name: variant["baseline"] for name, variant in variants.items()}


def _list(variants: Descriptions) -> str:
    return "\n".join(f"- *{name}*: {variant['description']}." for name, variant in variants.items())


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")

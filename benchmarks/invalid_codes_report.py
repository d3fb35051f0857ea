"""The study of invalid codes as results.json, table.md, an image of each data set, and a part of a page in docs/."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from visgen_fast.evaluation import expected_errors

from .studies import write_results
from .table import as_markdown

_SPACES = ("pixel", "latent", "vector")
_COLOURS = ("#222222", "#8d99ae", "#457b9d", "#e09f3e", "#6d6875", "#c44536", "#0b6e4f", "#7fb069")
_HEADER = (
    *("variant", "PSNR, dB", "invalid: pixel", "latent", "vector", "harmful: vector"),
    *("steps that improve nothing: pixel", "latent", "vector", "best prefix (pixel)", "lost to it", "codebook in use"),
)
_LEGEND = """\
A code is *invalid* where a shorter prefix of it, none of it included, reconstructs at least as well as all of it: the
share of the images by the error of their decoded pixels, by that of all their latents, and the share of single latent
vectors. *Harmful*: a shorter prefix is better, not only as good. *Steps that improve nothing*: the share of the depths
d = 1 … Q after which the error is no lower than after d − 1. *Best prefix*: its mean length in pixel space; *lost to
it*: by how much less the error is there than after all codes, on average. *In use*: the share of the codebook that
occurs at a depth, mean of the depths. Everything is measured on held-out images.
"""


def write_report(
    head: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], descriptions: Mapping[str, str], out: Path
) -> None:
    """Writes the report of `entries` (dataset, depth, variant, evaluation) into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_results(out / "results.json", {**head, "variants": descriptions}, entries)
    (out / "table.md").write_text(as_document(entries, descriptions))
    for dataset in dict.fromkeys(entry["dataset"] for entry in entries):
        chosen = [entry for entry in entries if entry["dataset"] == dataset]
        plot_dataset(dataset, chosen, list(descriptions), out / f"{dataset}.png")


def as_document(entries: Sequence[Mapping[str, Any]], descriptions: Mapping[str, str]) -> str:
    """The tables, one for each data set and depth, with what they mean."""
    parts = ["# Invalid codes and what helps against them", _LEGEND]
    parts.append("\n".join(f"- **{name}**: {text}." for name, text in descriptions.items()))
    for dataset, depth in dict.fromkeys((entry["dataset"], entry["depth"]) for entry in entries):
        chosen = [entry for entry in entries if (entry["dataset"], entry["depth"]) == (dataset, depth)]
        parts.append(f"## {dataset}, depth {depth}\n\n{_theory(depth)}")
        parts.append(as_markdown(_HEADER, [_row(entry) for entry in chosen]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def block(results: Path, page: Path) -> str:
    """A page's part of what `write_report` stored as `results`, with links relative to the page; "" without results."""
    if not results.exists():
        return ""
    stored, folder = json.loads(results.read_text()), Path(os.path.relpath(results.parent, page.parent)).as_posix()
    entries, parts = stored["entries"], []
    for dataset in dict.fromkeys(entry["dataset"] for entry in entries):
        chosen = [entry for entry in entries if entry["dataset"] == dataset]
        parts += [f"![{dataset}: error by the number of codes]({folder}/{dataset}.png)", summary_table(dataset, chosen)]
    parts.append("\n".join(f"- *{name}*: {text}." for name, text in stored["variants"].items()))
    source = f"torch {stored['versions']['torch']}, commit {stored['commit']}, {stored['date'][:10]}"
    parts.append(f"[All measures]({folder}/table.md), with {source}.")
    return "\n\n".join(parts) + "\n"


def summary_table(dataset: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """A row a variant: by depth, the PSNR, and the share of images whose code is no better than a shorter prefix."""
    found = {(entry["variant"], entry["depth"]): entry["evaluation"] for entry in entries}
    depths = sorted({depth for _, depth in found})
    header = [dataset, *(f"{what}, depth {depth}" for what in ("PSNR (dB)", "invalid") for depth in depths)]
    rows = []
    for variant in dict.fromkeys(entry["variant"] for entry in entries):
        measured = [found.get((variant, depth)) for depth in depths]
        psnr = ["–" if one is None else f"{one['psnr']:.2f}" for one in measured]
        invalid = ["–" if one is None else f"{one['invalid_codes']['pixel']['invalid_share']:.1%}" for one in measured]
        rows.append([variant, *psnr, *invalid])
    return as_markdown(header, rows)


def _theory(depth: int) -> str:
    lengths = {
        "all prefixes alike (dropout)": [1.0] * depth,
        "∝ d (rising)": [float(d + 1) for d in range(depth)],
        "half on the last (half dropout)": [0.5 / depth] * (depth - 1) + [0.5 + 0.5 / depth],
    }
    best = ", ".join(f"{name} {int(expected_errors(w).argmin()) + 1}" for name, w in lengths.items())
    return f"Best prefix of independent codes under a linear decoder, by the weights of the prefixes: {best}."


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    found = entry["evaluation"]
    by_space = [found["invalid_codes"][space] for space in _SPACES]
    best = sum(depth * share for depth, share in enumerate(by_space[0]["best_prefix"]))
    return (
        entry["variant"],
        f"{found['psnr']:.2f}",
        *(f"{summary['invalid_share']:.1%}" for summary in by_space),
        f"{by_space[2]['harmful_share']:.1%}",
        *(f"{summary['non_improving_share']:.1%}" for summary in by_space),
        f"{best:.1f}",
        f"{by_space[0]['excess']:.1%}",
        f"{sum(found['usage']) / len(found['usage']):.0%}",
    )


def plot_dataset(dataset: str, entries: Sequence[Mapping[str, Any]], variants: Sequence[str], out: Path) -> None:
    """Mean error against prefix length: a column a depth, pixel and latent space as rows, a line a variant."""
    depths = sorted({entry["depth"] for entry in entries})
    figure = Figure(figsize=(1 + 4.2 * len(depths), 7.5), layout="constrained")
    axes = figure.subplots(2, len(depths), squeeze=False)
    for entry in entries:
        column, colour = depths.index(entry["depth"]), _COLOURS[variants.index(entry["variant"]) % len(_COLOURS)]
        for row, space in enumerate(("pixel", "latent")):
            mean = entry["evaluation"]["invalid_codes"][space]["mean"]
            # Latents have no scale of their own: that of no code is 1. It would hide what differs, so it isn't drawn.
            values = [error / mean[0] for error in mean[1:]] if space == "latent" else mean[1:]
            line = {"color": colour, "linewidth": 1.4, "label": entry["variant"]}
            axes[row, column].plot(range(1, len(mean)), values, marker="o", markersize=3, **line)
    for row, label in enumerate(("mean square error of pixels", "of latents, over that of no code")):
        axes[row, 0].set_ylabel(label)
        for column, depth in enumerate(depths):
            axes[row, column].set(yscale="log", xlabel="codes in the prefix", title=f"depth {depth}")
            axes[row, column].set_xticks(range(1, depth + 1, max(1, depth // 8)))
    columns = 4 if len(depths) > 1 else 2
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=columns, loc="outside lower center", frameon=False)
    figure.suptitle(f"{dataset}: what each depth of an RQ-VAE is worth")
    figure.savefig(out, dpi=110)

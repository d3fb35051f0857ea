"""Figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .invalid_codes import InvalidCodes

_COLOURS = {"latent": "#457b9d", "pixel": "#0b6e4f"}


def plot_invalid_codes(found: Mapping[str, InvalidCodes], out: Path) -> None:
    """Draws error against prefix length in latent and pixel space, and which prefix is the best, as the PNG file `out`.

    `found` has the summaries of the spaces "latent" and "pixel".
    """
    figure = Figure(figsize=(12, 4), layout="constrained")
    latent, pixel, best = figure.subplots(1, 3)
    for axes, space in ((latent, "latent"), (pixel, "pixel")):
        _errors(axes, found[space], space)
        _best_prefix(best, found[space], space)
    best.set(xlabel="codes in the best prefix", ylabel="share of images", title="which prefix is best")
    best.legend()
    figure.savefig(out, dpi=120)


def _errors(axes: Axes, found: InvalidCodes, space: str) -> None:
    depths, colour = range(len(found.mean)), _COLOURS[space]
    axes.fill_between(depths, found.quantiles["0.1"], found.quantiles["0.9"], color=colour, alpha=0.2, linewidth=0)
    axes.plot(depths, found.quantiles["0.5"], color=colour, linestyle=":", label="median, 10 to 90 %")
    axes.plot(depths, found.mean, color=colour, marker="o", markersize=4, label="mean")
    # A logarithm has no place for the exact reconstruction that some images may have.
    axes.set_yscale("log" if min(found.quantiles["0.1"]) > 0 else "linear")
    axes.set_xticks([depth for depth in depths if depth % max(1, len(depths) // 8) == 0])
    axes.set(
        xlabel="codes in the prefix",
        ylabel="mean square error",
        title=f"{space}: all codes are no better than fewer\nfor {found.invalid_share:.0%} of the images",
    )
    axes.legend()


def _best_prefix(axes: Axes, found: InvalidCodes, space: str) -> None:
    places = [depth + (-0.2 if space == "latent" else 0.2) for depth in range(len(found.best_prefix))]
    axes.bar(places, found.best_prefix, width=0.4, color=_COLOURS[space], label=space)

"""A family's results as one picture: a row a case, a dot a way of computing it, at its multiple of the floor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # the backend is chosen first, so that no display is needed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_OURS, _PEERS = "#0b6e4f", ("#c44536", "#e09f3e", "#6d6875", "#457b9d", "#d36fa5", "#7f4f24")
_INK, _FAINT = "#222222", "#d8d8d8"
_HEAD, _FOOT, _ROW = 0.85, 0.6, 0.34  # inches: title and legend above the rows, the axis below them, a row
_MARGIN = 0.1  # inches left and right
_BESIDE = {"xycoords": ("axes fraction", "data"), "va": "center"}


def plot_family(result: Mapping[str, Any], target: Path) -> None:
    """Writes `target` (PNG) from a family's result as `python -m benchmarks` stores it."""
    cases, machine = result["cases"], result["machine"]
    figure, axes = pyplot.subplots(figsize=(10.5, _HEAD + _FOOT + _ROW * len(cases)), dpi=160)
    peers = {name: None for case in cases for name, entry in case["entries"].items() if entry["peer"]}
    colours = {name: _PEERS[index % len(_PEERS)] for index, name in enumerate(peers)}
    for row, case in enumerate(cases):
        _plot_case(axes, row, case, colours)
    axes.set_xscale("log")
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases])
    axes.axvline(1, color=_INK, linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), high * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1, 3)))  # what has room
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("time of a call over the machine's floor (1× = copy bandwidth or peak arithmetic; logarithmic)")
    axes.grid(axis="x", which="both", color=_FAINT, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    where = machine["name"] + (f", {machine['threads']} threads" if machine["device"] == "cpu" else "")
    height = figure.get_figheight()
    figure.text(0.01, 1 - 0.3 / height, f"{result['family']} on {where}", fontsize=13, fontweight="bold", color=_INK)
    figure.legend(*_legend(axes), ncols=6, frameon=False, fontsize=9, handletextpad=0.1, columnspacing=1.2,
                  loc="upper left", bbox_to_anchor=(0, 1 - 0.35 / height))  # fmt: skip
    axes.annotate("than the best peer", (1.01, -0.65), color=_INK, fontsize=8, **_BESIDE)
    figure.subplots_adjust(bottom=_FOOT / height, top=1 - _HEAD / height)
    _fit_sideways(figure, axes)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    pyplot.close(figure)


def _fit_sideways(figure: Figure, axes: Axes) -> None:
    """Names left of the axes and speedups right of them, whatever their lengths; heights are in inches already."""
    texts, frame, width = axes.get_tightbbox(), axes.get_window_extent(), figure.bbox.width
    margin = _MARGIN * figure.dpi
    figure.subplots_adjust(
        left=(frame.x0 - texts.x0 + margin) / width, right=1 - (texts.x1 - frame.x1 + margin) / width
    )


def _plot_case(axes: Axes, row: int, case: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    drawn = {name: entry for name, entry in case["entries"].items() if not name.startswith("reference")}
    best_peer = min(entry["times_floor"] for entry in drawn.values() if entry["peer"])
    axes.plot(
        [drawn["ours"]["times_floor"], best_peer],
        [row, row],
        color=_FAINT,
        linewidth=4,
        solid_capstyle="round",
        zorder=1,
    )
    for name, entry in drawn.items():
        if entry["peer"]:
            style = {"color": colours[name], "s": 46, "zorder": 3}
        elif name == "ours":
            style = {"color": _OURS, "s": 90, "zorder": 4}
        else:
            style = {"facecolors": "white", "edgecolors": _OURS, "linewidths": 1.2, "s": 34, "zorder": 2}
            if entry["instruction_set"] is None:
                style["marker"] = "s"
            else:
                name = "ours, narrower instruction sets"
        axes.scatter([entry["times_floor"]], [row], label=name, **style)
    speedup = drawn["ours"]["times_faster_than_best_peer"]
    text, color = (f"{speedup:.1f}× faster", _OURS) if speedup >= 1 else (f"{1 / speedup:.1f}× slower", _INK)
    axes.annotate(text, (1.01, row), color=color, fontsize=9, fontweight="bold", **_BESIDE)


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Each label once, ours first."""
    labelled = zip(*axes.get_legend_handles_labels(), strict=True)
    handles: dict[str, Any] = {}
    for handle, name in sorted(labelled, key=lambda pair: not pair[1].startswith("ours")):
        handles.setdefault(name, handle)
    return list(handles.values()), list(handles.keys())

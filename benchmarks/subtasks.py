"""How alike the sub-tasks of text and of pictures are: `python -m benchmarks.subtasks`.

One small model each of characters, of pixels, of pixels' digits from coarse to fine, and of noised images; each is
trained for a while, and `equivariance` is measured between the sub-tasks of every decomposition of it, beside its null:
random parts of the data. The text is that of Python's own help topics, the pictures are handwritten digits. What is
measured is kept, and the same command goes on after an interruption.

Written to benchmarks/results/subtasks: results.json and equivariance.png.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from visgen_fast import ops
from visgen_fast.autoregression import raster
from visgen_fast.data.images import digits, to_range
from visgen_fast.diffusion import CosineVP, DiffusionObjective, UniformTimes
from visgen_fast.evaluation import NoiseLevels, RandomParts, Subtasks, equivariance
from visgen_fast.evaluation.diffusion_report import as_json
from visgen_fast.evaluation.measuring import Pictures
from visgen_fast.evaluation.subtasks import by_column, by_depth, by_patch, by_place, by_row, by_row_end
from visgen_fast.models import DiT, SequenceModel

from . import studies
from .machine import describe, provenance

WINDOW, _ALPHABET, _BINS = 64, 60, 8
_BATCH, _PARTS = 32, 4
_RATE, _TUNING_RATE = 1e-3, 3e-4


@dataclass(frozen=True)
class Case:
    """A model before its training, its samples, and its decompositions by name."""

    model: nn.Module
    x: Tensor
    labels: Tensor | None
    tasks: Mapping[str, Subtasks]


def text_codes() -> Tensor:
    """Windows of the help topics as codes int64 [N, 64, 1], of the sixty most frequent characters; the rest is one."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    frequent = {character: place for place, (character, _) in enumerate(Counter(text).most_common(_ALPHABET))}
    codes = torch.tensor([frequent.get(character, _ALPHABET) for character in text])
    return codes[: len(codes) // WINDOW * WINDOW].view(-1, WINDOW, 1)


def _text(width: int) -> Case:
    codes = text_codes()
    model = SequenceModel(raster((WINDOW, 1)), _ALPHABET + 1, width=width, depth=2, heads=2)
    return Case(model, codes, None, {"text, places in a window": by_place(WINDOW, _BINS)})


def _levels() -> Tensor:
    """The digits' pixels in 16 levels, int64 [N, 8, 8, 1]."""
    return (digits().pixels.long() * 15 // 255).permute(0, 2, 3, 1)


def _pixels(width: int) -> Case:
    shape = (8, 8, 1)
    model = SequenceModel(raster(shape), 16, width=width, depth=2, heads=2)
    tasks = {
        "pixels, rows": by_row(shape),
        "pixels, columns": by_column(shape),
        "pixels, patches": by_patch(shape, 4),
        "pixels, ends of rows": by_row_end(shape),
    }
    return Case(model, _levels(), None, tasks)


def _depth(width: int) -> Case:
    shape, levels = (8, 8, 2), _levels()
    model = SequenceModel(raster(shape), 4, width=width, depth=2, heads=2)
    return Case(model, torch.cat((levels // 4, levels % 4), 3), None, {"pixels, coarse then fine": by_depth(shape)})


def _noise(width: int) -> Case:
    images = digits()
    model = DiT(
        image_size=8, channels=1, patch_size=2, width=width, depth=2, heads=2, classes=10, conditioning="log_snr"
    )
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes(), conditioning="log_snr")
    tasks = {"pictures, noise levels": NoiseLevels(objective, torch.linspace(-8, 8, 5))}
    return Case(model, to_range(images.pixels), images.labels, tasks)


CASES: dict[str, Callable[[int], Case]] = {"text": _text, "pixels": _pixels, "depth": _depth, "noise": _noise}


def train(case: Case, steps: int) -> None:
    """Trains the model on the sum of its sub-tasks."""
    whole = next(iter(case.tasks.values()))
    optimizer = torch.optim.Adam(case.model.parameters(), _RATE, betas=(0.9, 0.99))
    case.model.train()
    for step in range(steps):
        positions = torch.arange(step * _BATCH, (step + 1) * _BATCH)
        seeds = ops.derive_seeds(0, positions)
        places = torch.randint(len(case.x), (_BATCH,), generator=torch.Generator().manual_seed(step))
        labels = None if case.labels is None else case.labels[places]
        loss = whole.together(case.model, Pictures(case.x[places], labels, seeds), positions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    case.model.eval()


def measure(name: str, *, width: int, steps: int, tuning: int, samples: int, repeats: int) -> list[dict[str, Any]]:
    """An entry for each decomposition of a case, and one for the null of the first."""
    torch.manual_seed(0)
    case = CASES[name](width)
    train(case, steps)
    chosen = torch.randperm(len(case.x), generator=torch.Generator().manual_seed(0))[:samples]
    x, labels = case.x[chosen], None if case.labels is None else case.labels[chosen]
    seeds = ops.derive_seeds(1, torch.arange(len(x)))
    first = next(iter(case.tasks.values()))
    entries = []
    for what, tasks in {**case.tasks, f"null of {name}": RandomParts(first, _PARTS)}.items():
        found = equivariance(
            *(case.model, tasks, x, labels), seeds=seeds, steps=tuning, learning_rate=_TUNING_RATE, repeats=repeats
        )
        entries.append({"decomposition": what, "null": what.startswith("null"), **as_json(found)})
    return entries


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("width", "steps", "tuning", "samples", "repeats")}
    entries = []
    for name in options.cases or CASES:
        file, task = options.runs / f"{name}.json", {"case": name, **settings}
        if studies.read(file).get("task") != task:
            studies.write(file, {"task": task, "entries": measure(name, **settings)})
        entries += studies.read(file)["entries"]
        for entry in studies.read(file)["entries"]:
            told = [f"{name} {_told(entry[name])}" for name in ("transfer", "cosine")]
            print(f"{entry['decomposition']}: {', '.join(told)}", flush=True)
    head = {"study": "subtasks", **provenance(describe("cpu")), "settings": settings}
    studies.write_results(options.out / "results.json", head, entries)
    plot(entries, options.out / "equivariance.png")
    print(f"written to {options.out}")
    return 0


def _told(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "not known"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = studies.parser("subtasks", __doc__)
    add = parser.add_argument
    add("cases", nargs="*", choices=[*CASES, []], help="which; all by default")
    add("--width", type=int, default=64, help="of the networks")
    add("--steps", type=int, default=600, help="of each training")
    add("--tuning", type=int, default=40, help="steps on each sub-task")
    add("--samples", type=int, default=1600, help="that are tuned on and measured")
    add("--repeats", type=int, default=4, help="of the tuning, for the intervals")
    return parser.parse_args(arguments)


def plot(entries: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draws transfer and mean cosine of every decomposition with their intervals, nulls in grey, as a PNG file."""
    figure = Figure(figsize=(10, 1.2 + 0.35 * len(entries)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    rows = list(reversed(entries))
    for panel, name, title in zip(
        panels,
        ("transfer", "cosine"),
        ("transfer to another sub-task ÷ within one", "mean cosine of two gradients"),
        strict=True,
    ):
        for place, entry in enumerate(rows):
            one, colour = entry[name], "#8d99ae" if entry["null"] else "#457b9d"
            if one["value"] is not None:
                panel.plot([one["low"], one["high"]], [place, place], color=colour, linewidth=2)
                panel.plot(one["value"], place, "o", color=colour)
        for line in (0, 1):
            panel.axvline(line, color="#222222", linewidth=0.6)
        panel.set(title=title, yticks=range(len(rows)), yticklabels=[entry["decomposition"] for entry in rows])
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())

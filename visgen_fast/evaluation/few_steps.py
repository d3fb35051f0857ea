"""How far a few-step model is from its teacher: a seed is the same noise for both, so the error is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .features import Features, FeatureSet, SetDistances, compare_sets

_SHOWN = 10


@dataclass(frozen=True)
class StepsMeasure:
    """One number of steps. error: root mean square distance to the teacher's long run from the same seeds.

    to_teacher, to_data: distances of the set to that of the long run, and to images; None without features.
    """

    model: str
    steps: int
    error: float
    to_teacher: SetDistances | None
    to_data: SetDistances | None


@dataclass(frozen=True)
class FewSteps:
    """A few-step model beside its teacher, at the same numbers of steps; the teacher's long run has `long`."""

    pictures: int
    long: int
    measures: tuple[StepsMeasure, ...]


def evaluate_few_steps(
    student: Callable[[int], Tensor],
    teacher: Callable[[int], Tensor],
    steps: Sequence[int],
    *,
    long: int = 64,
    data: Tensor | None = None,
    features: Features | None = None,
) -> tuple[FewSteps, Tensor]:
    """The measures, and some of what was drawn: [rows, columns, C, H, W], a row for each measure and the long run last.

    student, teacher: draw [N, C, H, W] in so many steps, from the same seeds; the teacher is guided as the student
    learned. data: images to compare with, [M, C, H, W] in [−1, 1], where there are features. ValueError for fewer than
    one step, and for sets of different shapes.
    """
    if not steps or min(steps) < 1:
        raise ValueError(f"steps must be numbers of at least 1, got {list(steps)}")
    end = teacher(long)
    reference = _found(features, end)
    images = None if data is None else _found(features, data)
    measures, shown = [], []
    for name, draw, counts in (("student", student, steps), ("teacher", teacher, [*steps, long])):
        for count in counts:
            drawn = end if draw is teacher and count == long else draw(count)
            if drawn.shape != end.shape:
                raise ValueError(f"student and teacher must draw one shape, got {list(drawn.shape)}, {list(end.shape)}")
            found = _found(features, drawn)
            distances = [None if found is None or of is None else compare_sets(of, found) for of in (reference, images)]
            error = float((drawn - end).double().square().mean().sqrt())
            measures.append(StepsMeasure(name, count, error, *distances))
            shown.append(drawn[:: max(1, len(drawn) // _SHOWN)][:_SHOWN])
    return FewSteps(len(end), long, tuple(measures)), torch.stack(shown)


def _found(features: Features | None, pictures: Tensor) -> FeatureSet | None:
    return None if features is None else features.of(pictures.clamp(-1, 1).split(256))


def as_text(found: FewSteps) -> str:
    """The measures for a terminal."""
    lines = [f"{'':10}{'steps':>6}{'error':>9}{'to teacher':>22}{'to data':>22}"]
    for one in found.measures:
        sets = "".join(f"{_told(distances):>22}" for distances in (one.to_teacher, one.to_data))
        lines.append(f"{one.model:10}{one.steps:>6}{one.error:>9.4f}{sets}")
    return "\n".join([*lines, f"Fréchet (and kernel) distances of {found.pictures} images"])


def _told(distances: SetDistances | None) -> str:
    if distances is None:
        return "–"
    return f"{distances.frechet_distance.value:.4g} ({distances.kernel_distance.value:.3g})"


def write(found: FewSteps, out: Path, head: dict[str, Any]) -> None:
    """Writes few_steps.json, `head` and the measures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "few_steps.json").write_text(json.dumps({**head, **asdict(found)}, indent=1) + "\n")

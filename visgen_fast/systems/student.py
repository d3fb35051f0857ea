"""What is trained when a few-step model is, from trajectories, and how its images are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check as check
from ..data.order import Batch
from ..diffusion.flow_map import FlowMap, along
from ..diffusion.plan import plan
from ..diffusion.predictions import Prediction
from ..diffusion.sampling import Callback, sample
from ..diffusion.schedules import Schedule
from ..diffusion.trajectory import TrajectoryObjective
from ..models.dit import DiT
from ..training.system import System
from .classes import check_labels
from .generative import GenerativeSystem


@dataclass(frozen=True)
class Teacher:
    """A diffusion model that students follow: its network, frozen, and the same as it is called, (x, t, labels)."""

    network: nn.Module
    model: Callable[..., Tensor]
    schedule: Schedule
    prediction: Prediction


@dataclass(frozen=True)
class StudentDrawing:
    """How a few-step model draws: steps, the sampler "euler" or "consistency", and the scales that it may be told."""

    steps: int = 4
    sampler: str = "euler"
    guidance: tuple[float, float] = (1.0, 1.0)


def null_label_of(model: DiT) -> int:
    """The label "no class" of a model of classes, which few-step models all are."""
    assert model.null_label is not None
    return model.null_label


class StudentSystem(GenerativeSystem):
    """A network (x_t, t, labels, destination) that steps far, on a schedule, with the teacher that it learns from.

    What a student knows of guidance is baked in: it is never guided itself. One that was told scales in training is
    told one when it draws.
    """

    def __init__(
        self,
        model: DiT,
        schedule: Schedule,
        prediction: Prediction,
        shape: tuple[int, ...],
        drawing: StudentDrawing,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.model, self.schedule, self.prediction = model, schedule, prediction
        self.shape, self.drawing = shape, drawing
        if teacher is not None:
            self.teacher, self.frozen = teacher.network, ("teacher",)

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("model",)

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, *, callback: Callback | None = None, **options: Any) -> Tensor:
        check_labels(labels, null_label_of(self.model))
        asked = self.options(**options)
        way = plan(asked["sampler"], self.schedule, self.prediction, steps=asked["steps"])
        model: Callable[..., Tensor] = self.model
        if "guidance" in asked:
            model = partial(model, guidance=torch.full(seeds.shape, asked["guidance"], device=seeds.device))
        return sample(along(model, way), way, self.shape, labels, seeds, callback=callback)

    def options(self, **asked: Any) -> dict[str, Any]:
        check.options(asked, ("steps", "sampler", "guidance"), "a few-step model")
        given = {name: value for name, value in asked.items() if value is not None}
        low, high = self.drawing.guidance
        if low == high:
            if given.pop("guidance", low) not in (low, 1.0):
                raise ValueError(
                    f"guidance must be left out for a few-step model, which has {low:g} baked in, "
                    f"got {asked['guidance']:g}"
                )
        elif not low <= given.setdefault("guidance", low) <= high:
            raise ValueError(
                f"guidance must lie in [{low:g}, {high:g}], which the model was told in training, "
                f"got {given['guidance']:g}"
            )
        found = {"steps": self.drawing.steps, "sampler": self.drawing.sampler, **given}
        if found["sampler"] not in ("euler", "ddim", "consistency"):
            raise ValueError(f"a few-step model is drawn by euler, ddim or consistency, got {found['sampler']!r}")
        return found

    def flow_map(self, model: Callable[..., Tensor] | None = None) -> FlowMap:
        """The student's, or another network's, on its schedule."""
        return FlowMap(self.model if model is None else model, self.schedule, self.prediction)


class TrajectoryStudent(StudentSystem):
    """A student of a `TrajectoryObjective`.

    warmup: steps over which the derivative comes to count; grids: (first step, intervals) of grids that follow one
    another, in the order of their first steps; none for the objective's own. average: whether the targets are of the
    averaged weights.
    """

    def __init__(
        self,
        model: DiT,
        objective: TrajectoryObjective,
        shape: tuple[int, ...],
        drawing: StudentDrawing,
        teacher: Teacher | None = None,
        *,
        warmup: int = 0,
        grids: Sequence[tuple[int, int]] = (),
        average: bool = False,
    ) -> None:
        super().__init__(model, objective.schedule, objective.prediction, shape, drawing, teacher)
        self.objective, self.warmup, self.grids, self.by_average = objective, warmup, tuple(grids), average
        self._followed: list[System] = []  # in a list, so that it is no sub-module

    def follow(self, average: System) -> None:
        self._followed = [average]

    def forward(self, batch: Batch) -> Tensor:
        own = self._average if self.by_average and self._followed else None
        return self.objective(self.model, batch.images, batch.labels, batch.seeds, average=own)

    def before_step(self, step: int) -> None:
        self.objective.warmup = min(1.0, step / self.warmup) if self.warmup else 1.0
        for first, intervals in self.grids:
            if step >= first:
                self.objective.steps = intervals

    @property
    def _average(self) -> DiT:
        (followed,) = self._followed
        assert isinstance(followed, StudentSystem)
        return followed.model


class ProgressiveStudent(TrajectoryStudent):
    """Rounds on grids that halve: each takes in one step what the model of the round before takes in two.

    Salimans and Ho, "Progressive distillation", 2022. The first round's teacher is the diffusion model, guided; then it
    is `guide`, the averaged student at the beginning of the round, which has the guidance in it.
    """

    def __init__(self, guide: DiT, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        counts = [intervals for _, intervals in self.grids]
        if not counts or any(two != 2 * one for two, one in zip(counts, counts[1:], strict=False)):
            raise ValueError(f"grids must halve from one to the next, as 8 4 2 1, got {' '.join(map(str, counts))}")
        self.guide = guide.requires_grad_(False)
        self._first = self.objective.teacher, self.objective.guidance
        # By a function, so that no copy of the objective copies the guide.
        self._later = self.flow_map(lambda *at: self.guide(*at))

    def train(self, mode: bool = True) -> ProgressiveStudent:
        super().train(mode)
        self.guide.eval()
        return self

    def before_step(self, step: int) -> None:
        super().before_step(step)
        first, *later = (start for start, _ in self.grids)
        if step in later:
            self.guide.load_state_dict(self._average.state_dict())
        began = bool(later) and step >= later[0]
        self.objective.teacher, self.objective.guidance = (self._later, (1.0, 1.0)) if began else self._first

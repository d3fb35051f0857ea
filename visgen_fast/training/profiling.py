"""What some steps of a run spend their time on: a trace to look at, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from ..errors import writing

_COLLECTIVES = ("gloo:", "nccl")  # as the libraries call theirs; c10d:: is the same time again
_ROWS = 40


class Profile:
    """Profiles `steps` steps of this rank, after three others, into OUT/profile; none if `steps` is 0."""

    def __init__(self, out: Path, steps: int, rank: int) -> None:
        self.folder, self.steps, self.rank = out / "profile", steps, rank
        self._profile: Any = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this lasts, steps are profiled."""
        if not self.steps:
            yield
            return
        schedule = torch.profiler.schedule(wait=1, warmup=2, active=self.steps, repeat=1)
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities, schedule=schedule, on_trace_ready=self._write) as profile:
            self._profile = profile
            yield

    def step(self) -> None:
        """Tells that a step is done."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, profile: torch.profiler.profile) -> None:
        averages = profile.key_averages()
        communicating = [
            max(event.cpu_time_total, event.device_time_total)
            for event in averages
            if event.key.startswith(_COLLECTIVES)
        ]
        seconds = f"{sum(communicating) / 1e6 / self.steps:.4g} s of a step in communication"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(self.folder / f"trace-{self.rank}.json"))
            table = averages.table(sort_by="self_cpu_time_total", row_limit=_ROWS)
            (self.folder / f"table-{self.rank}.txt").write_text(f"{seconds}\n{table}\n")

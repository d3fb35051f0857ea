"""Runs that end before their last step: told by a signal, or at the end of the time that they were given."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator
from torch import distributed as dist

from .settings import TrainingSettings

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_BEGAN = time.monotonic()
# Of the time that saving took, which is left for the next one.
_MARGIN = 2.0


class Stopping:
    """Whether a run must stop now: all ranks ask after every step, and hear the same answer.

    A rank's wish reaches the others with the next step, so that none waits for it. SIGTERM and SIGUSR1 are what
    schedulers send before they end a job; `max_hours` counts from the start of the process.
    """

    def __init__(self, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.max_hours = settings.max_hours
        self._group = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self._asked: tuple[torch.Tensor, dist.Work] | None = None
        self._signal = 0
        self._longest_step = self._longest_save = 0.0
        self._last = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, signals are heard."""
        ours = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._hear) for number in ours}
        self._last = time.monotonic()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def saved(self, seconds: float) -> None:
        """Tells how long a checkpoint took."""
        self._longest_save = max(self._longest_save, seconds)
        self._last = time.monotonic()

    def finish(self) -> None:
        """Waits for what the ranks still have to tell one another; all ranks call it after their last question."""
        if self._asked is not None:
            self._asked[1].wait()
            self._asked = None

    def reason(self) -> str | None:
        """Why to stop after this step, or None."""
        now = time.monotonic()
        self._longest_step, self._last = max(self._longest_step, now - self._last), now
        wish = self._wish(now)
        if self._group is not None:
            wish = self._agreed(wish)
        if wish < 0:
            return f"after {self.max_hours:g} hours"
        return f"by {signal.Signals(wish).name}" if wish else None

    def _wish(self, now: float) -> int:
        """The signal that was heard, −1 where the time is over, else 0."""
        if self._signal or self.max_hours is None:
            return self._signal
        left = self.max_hours * 3600 - (now - _BEGAN)
        return -1 if left < _MARGIN * (self._longest_save + self._longest_step) else 0

    def _agreed(self, wish: int) -> int:
        """The largest wish of all ranks after the step before, or else the smallest."""
        before, wishes = self._asked, torch.tensor([max(wish, 0), -min(wish, 0)])
        asked = dist.all_reduce(wishes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert asked is not None
        self._asked = wishes, asked
        if before is None:
            return 0
        before[1].wait()
        heard, over = before[0].tolist()
        return heard or -over

"""Writes a run's checkpoints, at once or while training goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread, get_native_id
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from .copies import Copies
from .place import on_main_rank
from .run import Run
from .shards import Shards

_YIELDED = 10  # by which a thread that writes is behind: on a busy core it gets a tenth
_LONGEST_WAIT = 60.0  # seconds, for a checkpoint in the writing when the training has failed


class Saver:
    """Writes the checkpoints of `run`: the main rank alone, or in shards each rank its share.

    In the background a checkpoint is of the step at which it was begun. One is written at a time. All ranks call.
    """

    def __init__(self, run: Run, weights: Copies | Shards, accelerator: Accelerator) -> None:
        self.run, self.weights, self.accelerator = run, weights, accelerator
        self._thread: Thread | None = None
        self._failure: Exception | None = None

    def save(
        self,
        step: int,
        parts: dict[str, dict[str, Tensor]],
        frozen: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        *,
        background: bool,
    ) -> None:
        """Writes a checkpoint as `Run.save` does. Raises what went wrong with it, or with the one before."""
        self.wait()
        if background and self._writes:
            parts = BlockingAsyncStager().stage(parts)
        write: Callable[[], None] = partial(self.run.save, step, parts, frozen, state)
        if isinstance(self.weights, Shards):
            write = partial(self.run.save_shards, step, parts, frozen, state, self.weights.group)
        if not background:
            write() if self.weights.sharded else on_main_rank(self.accelerator, write)
        elif self._writes:
            self._thread = Thread(target=self._in_background, args=(write,), daemon=True)
            self._thread.start()

    @property
    def _writes(self) -> bool:
        return self.weights.sharded or self.accelerator.is_main_process

    def _in_background(self, write: Callable[[], None]) -> None:
        _behind_others()
        try:
            write()
        except Exception as error:  # raised by `wait`
            self._failure = error

    def wait(self) -> None:
        """Waits for the checkpoint that is being written; raises what went wrong with it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        on_main_rank(self.accelerator, self._raise) if not self.weights.sharded else self._raise()

    def _raise(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits a while for what is being written, whatever becomes of it."""
        if self._thread is not None:
            self._thread.join(_LONGEST_WAIT)


def _behind_others() -> None:
    """Leaves this thread the time of processors that training does not want, and a tenth of the rest.

    An operation shares its work evenly among as many threads as there are cores: it would wait for the one whose core
    is shared with the writing, and take twice as long.
    """
    with suppress(OSError, AttributeError):  # of systems where a thread has no priority of its own
        thread = get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _YIELDED)

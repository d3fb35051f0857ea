"""How long the device waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class DataClock:
    """Adds up the `seconds` in which this rank's device had nothing to do but wait for data."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._done = None if device.type == "cpu" else torch.Event(device)

    def next(self, batches: Iterator[T]) -> T:
        """The next batch. The wait for it counts unless the device is still at work when it comes."""
        began = time.monotonic()
        batch = next(batches)
        if self._done is None or self._done.query():
            self.seconds += time.monotonic() - began
        return batch

    def given(self) -> None:
        """Tells that the device has been given a step's work."""
        if self._done is not None:
            self._done.record()

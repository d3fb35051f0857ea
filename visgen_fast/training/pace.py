"""How fast a run is, for people: samples, tokens and operations a second, memory, and the time spent waiting."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from .operations import measured_peak
from .settings import TrainingSettings
from .system import System
from .turn import Turn

_FORMATS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PREFIXES = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}


class Pace(NamedTuple):
    """Of all ranks in a second: images; tokens and model FLOPs, None where they aren't known.

    peak_share: of the measured peak of so many devices; memory: in bytes, the most that this rank has needed so far;
    waiting: the share of the time in which its device waited for data.
    """

    images: float
    tokens: float | None = None
    operations: float | None = None
    peak_share: float | None = None
    memory: int = 0
    waiting: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.images:.0f} images/s"]
        if self.tokens is not None:
            parts.append(f"{_short(self.tokens)}tokens/s")
        if self.operations is not None:
            share = "" if self.peak_share is None else f" ({self.peak_share:.1%} of the peak)"
            parts.append(f"{_short(self.operations)}FLOP/s{share}")
        if self.memory:
            parts.append(f"{_short(self.memory)}B")
        if self.waiting >= 0.01:
            parts.append(f"{self.waiting:.0%} of the time waiting for data")
        return ", ".join(parts)

    def scalars(self) -> dict[str, float]:
        """By name, what is known beside the images."""
        known = {
            "tokens_per_second": self.tokens,
            "flops_per_second": self.operations,
            "share_of_peak": self.peak_share,
            "peak_memory_bytes": self.memory,
            "waiting_for_data": self.waiting,
        }
        return {name: value for name, value in known.items() if value is not None}


class Pacing:
    """Says the pace of the steps that the players' turns have taken. Every rank makes one, all at the same time."""

    def __init__(
        self, system: System, turns: Sequence[Turn], settings: TrainingSettings, device: torch.device, ranks: int
    ) -> None:
        self.system, self.turns, self.settings, self.device = system, turns, settings, device
        self.peak = ranks * measured_peak(device, _FORMATS[settings.mixed_precision])

    def of(self, steps: int, turns: Mapping[str, int], seconds: float, waited: float) -> Pace:
        """The pace of so many steps, in which the players had so many turns, in so many seconds."""
        images = self.settings.batch_size / seconds
        tokens = self.system.tokens
        acting = [turn for turn in self.turns if turns[turn.player.name]]
        known = [turn.operations * turns[turn.player.name] for turn in acting if turn.operations is not None]
        total = math.fsum(known)
        operations = images * total if len(known) == len(acting) and total else None
        return Pace(
            images=images * steps,
            tokens=None if tokens is None else images * steps * tokens,
            operations=operations,
            peak_share=None if operations is None else operations / self.peak,
            memory=most_memory(self.device),
            waiting=waited / seconds,
        )


def most_memory(device: torch.device) -> int:
    """The most bytes that this process has had on an accelerator, or for a CPU in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _short(number: float) -> str:
    """A number with two digits or more and the prefix of its power of a thousand."""
    power, prefix = next(((power, prefix) for power, prefix in _PREFIXES.items() if number >= power), (1, ""))
    return f"{number / power:.{1 if number < 10 * power else 0}f} {prefix}"

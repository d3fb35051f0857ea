"""Timing several ways of computing the same thing against each other, fairly.

Cold: contenders take turns call by call, in an order drawn anew for each round, so that a busy neighbour or a warming
processor touches all alike. Every call takes the next of as many sets of inputs as exceed eight times the last-level
cache together, and its outputs stay alive until their set comes round again: nobody finds anything in the cache.
Warm: each contender calls on one set, again and again, and drops its outputs at once.

What a call allocates is allocated inside the timing. On a CPU the C library decides whether that means fresh pages,
which cost more than many operations: before the timing a block as large as its adaptive threshold is freed, so that it
behaves as in a process that has freed large tensors before; page faults a call are recorded.
On a GPU the calls queue up behind a pause, and events on the stream measure the device's time alone.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .capability import use_instruction_set
from .ceilings import COLD_CACHES
from .machine import Machine
from .workload import Contender, Inputs, Workload

_ADAPTIVE_THRESHOLD = 31 << 20  # glibc keeps blocks up to the largest one freed, but no larger than 32 MiB, in its heap
_PAUSE_CYCLES = 40_000_000  # of a GPU's clock, about 25 ms: longer than it takes to queue a batch of calls
_BATCH_CALLS = 100  # with their events and kernels they fit into the queue of a stream

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler counts bytes here; its progress is nobody's interest


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender's calls."""

    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    calls: int
    page_faults: float  # median of a call; 0 on a GPU

    @classmethod
    def of(cls, samples: Sequence[tuple[float, int]]) -> Timing:
        times = sorted(seconds for seconds, _ in samples)
        last = len(times) - 1
        faults = statistics.median(count for _, count in samples)
        return cls(statistics.median(times), times[round(0.1 * last)], times[round(0.9 * last)], len(times), faults)


def cold_sets(workload: Workload, machine: Machine) -> int:
    """How many sets of inputs and outputs exceed eight times the last-level cache together; at least 2."""
    return max(2, -(-COLD_CACHES * machine.cache_bytes // max(workload.moved_bytes, 1)))


def time_cold(contenders: Sequence[Contender], sets: Sequence[Inputs], machine: Machine, budget: float) -> list[Timing]:
    """Timings of calls that take turns; `budget` is in seconds a contender."""
    call = _cuda_calls if machine.device == "cuda" else _cpu_calls
    wanted = [_calls_within(budget, contender, sets[0], machine, 3) for contender in contenders]
    schedule = _turns(wanted)
    samples: list[list[tuple[float, int]]] = [[] for _ in contenders]
    # From the first call on, outputs take the place of older ones, as in a loop that has long been running.
    outputs = contenders[0].run(sets[0])
    kept: list[object] = [_copies(outputs) for _ in sets]
    del outputs
    with _undisturbed(machine):
        for turn, sample in call([(contenders[turn], turn) for turn in schedule], sets, kept):
            samples[turn].append(sample)
    return [Timing.of(own) for own in samples]


def time_warm(contenders: Sequence[Contender], inputs: Inputs, machine: Machine, budget: float) -> list[Timing]:
    """Timings of calls on one set of inputs, in three blocks a contender."""
    call = _cuda_calls if machine.device == "cuda" else _cpu_calls
    samples: list[list[tuple[float, int]]] = [[] for _ in contenders]
    with _undisturbed(machine):
        for _ in range(3):
            for turn, contender in enumerate(contenders):
                count = _calls_within(budget / 3, contender, inputs, machine, 1)
                block = call([(contender, turn)] * (count + 1), [inputs], None)
                samples[turn] += [sample for _, sample in block][1:]  # the first call warms the cache
    return [Timing.of(own) for own in samples]


def peak_memory(run: Callable[[Inputs], object], inputs: Inputs, device: str) -> int:
    """Bytes allocated at most beyond those that were there before the call, outputs included."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(inputs)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        outputs = run(inputs)
    del outputs
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


# ------------------------------------------------------------------------------------------------------------- details


def _turns(wanted: Sequence[int], seed: int = 0) -> list[int]:
    """Contenders' turns: everybody once a round, in random order; who wants fewer calls sits out some rounds."""
    rounds, shuffler, schedule = max(wanted), random.Random(seed), []
    for index in range(rounds):
        due = [turn for turn, count in enumerate(wanted) if (index + 1) * count // rounds > index * count // rounds]
        shuffler.shuffle(due)
        schedule += due
    return schedule


def _calls_within(budget: float, contender: Contender, inputs: Inputs, machine: Machine, least: int) -> int:
    """How many calls fit the budget: 5 to 300, or `least` of one so slow that its times vary little."""
    start = time.perf_counter()
    with use_instruction_set(contender.instruction_set):
        contender.run(inputs)
    if machine.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return int(min(max(budget / seconds, 5 if seconds < 0.2 else least), 300))


def _cpu_calls(turns: Sequence[tuple[Contender, int]], sets: Sequence[Inputs], kept: list[object] | None):
    """Yields (turn, (seconds, page faults)) of each call."""
    for number, (contender, turn) in enumerate(turns):
        index = number % len(sets)
        if kept is not None:
            kept[index] = None
        with use_instruction_set(contender.instruction_set):
            faults, start = _page_faults(), time.perf_counter()
            outputs = contender.run(sets[index])
            seconds = time.perf_counter() - start
            faults = _page_faults() - faults
        if kept is not None:
            kept[index] = outputs
        del outputs
        yield turn, (seconds, faults)


def _cuda_calls(turns: Sequence[tuple[Contender, int]], sets: Sequence[Inputs], kept: list[object] | None):
    """The same from events on the stream, in batches that wait behind a pause until they are all queued."""
    for first in range(0, len(turns), _BATCH_CALLS):
        batch = turns[first : first + _BATCH_CALLS]
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in batch]
        torch.cuda._sleep(_PAUSE_CYCLES)
        for number, ((contender, _), (start, end)) in enumerate(zip(batch, marks, strict=True), first):
            index = number % len(sets)
            if kept is not None:
                kept[index] = None
            start.record()
            outputs = contender.run(sets[index])
            end.record()
            if kept is not None:
                kept[index] = outputs
            del outputs
        torch.cuda.synchronize()
        for (_, turn), (start, end) in zip(batch, marks, strict=True):
            yield turn, (start.elapsed_time(end) / 1e3, 0)


def _copies(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [output.clone() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]


def _page_faults() -> int:
    try:
        import resource
    except ImportError:  # Windows does not count them
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@contextmanager
def _undisturbed(machine: Machine):
    """No garbage collection, and a settled allocator."""
    if machine.device == "cpu":
        torch.empty(_ADAPTIVE_THRESHOLD, dtype=torch.uint8)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

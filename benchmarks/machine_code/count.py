"""What a launch executes, and the bound that follows for a device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .cubin import Kernel
from .launches import Recorded, parameters_of
from .machine import Launch, Machine
from .memory import SECTOR, Memory, Traffic
from .program import Program
from .throughput import SCHEDULERS, Device, pipe_of

_LANES_AT_ONCE = 8192


@dataclass
class Count:
    """One launch of a kernel, or all launches of a case added up. Instructions are those of warps."""

    issues: int = 0
    pipes: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)  # of threads, as the emulation counts them
    asked_bytes: int = 0  # by threads, of global memory
    cache_bytes: int = 0  # sectors between the first-level caches and the second
    memory_bytes: int = 0  # different sectors of all
    wavefronts: int = 0
    least_wavefronts: int = 0
    products: int = 0  # multiply-adds of tensor cores
    spills: int = 0  # accesses to spilled registers that warps execute
    listing: Counter[tuple[str, int, str]] = field(default_factory=Counter)  # issues by kernel, address and text

    def __add__(self, other: Count) -> Count:
        return Count(**{name: value + vars(other)[name] for name, value in vars(self).items()})


_EVENT_OF = {
    "LDG": "global loads", "STG": "global stores", "RED": "global atomics", "REDG": "global atomics",
    "ATOM": "global atomics", "ATOMG": "global atomics", "LDS": "shared loads", "STS": "shared stores",
    "ATOMS": "shared atomics", "SHFL": "shuffles", "VOTE": "votes", "VOTEU": "votes", "BAR": "block barriers",
    "WARPSYNC": "warp barriers", "HMMA": "tensor-core instructions", "LDSM": "matrix loads",
    "LDGSTS": "asynchronous copies", "LD": "global loads", "ST": "global stores",
}  # fmt: skip


def count_launch(kernel: Kernel, launch: Recorded, program: Program | None = None) -> Count:
    """Runs `launch` by the kernel's machine code, on the memory of this process, and counts."""
    program = program or kernel.program
    parameters = parameters_of(launch.arguments, kernel.parameters)
    shape = Launch(launch.kernel, launch.grid, launch.block, launch.dynamic_shared_bytes, parameters)
    blocks = int(np.prod(launch.grid))
    at_once = max(1, _LANES_AT_ONCE // int(np.prod(launch.block)))
    count, memory, touched = Count(), Memory(), []
    for first in range(0, blocks, at_once):
        machine = Machine(
            program,
            shape,
            kernel.architecture,
            blocks=np.arange(first, min(first + at_once, blocks)),
            shared_bytes=1024 + kernel.static_shared_bytes + launch.dynamic_shared_bytes,
            constants=kernel.constants,
            memory=memory,
        )
        machine.run()
        count = count + _count(machine, program, touched)
    count.memory_bytes = SECTOR * len(np.unique(np.concatenate(touched))) if touched else 0
    return count


def _count(machine: Machine, program: Program, touched: list[np.ndarray]) -> Count:
    count = Count(issues=int(machine.issues.sum()))
    count.events["different global loads"] = machine.different_loads
    for position, instruction in enumerate(program.instructions):
        issues = int(machine.issues[position])
        if issues == 0:
            continue
        count.pipes[pipe_of(instruction)] += issues
        traffic = machine.traffic.get(position, Traffic())
        if event := _EVENT_OF.get(instruction.base):
            count.events[event] += int(machine.executions[position]) - traffic.shared - traffic.constant
            count.events[event.replace("global", "shared")] += traffic.shared
        if instruction.spill:
            count.spills += issues
        if instruction.base == "HMMA":
            count.products += issues * 16 * 8 * 16
        count.listing[program.name, instruction.address, instruction.text] += issues
        if traffic.touched:
            count.asked_bytes += traffic.bytes
            count.cache_bytes += traffic.sectors * SECTOR
            touched.extend(traffic.touched)
        count.wavefronts += traffic.wavefronts
        count.least_wavefronts += traffic.least_wavefronts
    return count


@dataclass(frozen=True)
class Bound:
    """The least time of a case on a device, in nanoseconds for each of its units, and why."""

    device: str
    times: dict[str, float]

    @property
    def limit(self) -> str:
        return max(self.times, key=lambda name: self.times[name])

    @property
    def time(self) -> float:
        return self.times[self.limit]

    @property
    def memory_share(self) -> float:
        """Of the bandwidth of a copy that the bound allows."""
        return self.times["memory"] / self.time if self.time else 0.0


def bound(count: Count, units: int, device: Device) -> Bound:
    """`units` are the elements or rows of the case."""
    clocks = {"issue": count.issues / SCHEDULERS}
    for pipe, rate in device.rates.items():
        issues = count.pipes["fma"] + count.pipes["imad"] if pipe == "fma and imad" else count.pipes[pipe]
        clocks[pipe] = issues * 32 / rate
    clocks["shared memory"] = float(count.wavefronts)
    clocks["first-level cache"] = count.cache_bytes / 128
    clocks["tensor"] = count.products / device.products
    per_second = device.multiprocessors * device.clock  # clocks of all multiprocessors in a nanosecond
    times = {name: value / per_second / units for name, value in clocks.items() if value}
    times["memory"] = count.memory_bytes / device.copy_bandwidth / units
    return Bound(device.name, times)

"""The instruction set that the CPU kernels use, switched within a run so that one run compares them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from visgen_fast._library import INSTRUCTION_SETS, cpu_capability, set_cpu_capability


def instruction_sets() -> list[str]:
    """Those that the CPU library has and this processor runs, ascending."""
    found = []
    for name in INSTRUCTION_SETS:
        try:
            with use_instruction_set(name):
                found.append(name)
        except ValueError:  # this is how the library says that it has no such kernels for this machine
            continue
    return found


@contextmanager
def use_instruction_set(name: str | None) -> Iterator[None]:
    """The CPU kernels use `name` inside; None changes nothing."""
    before = cpu_capability()
    if name is not None:
        set_cpu_capability(name)
    try:
        yield
    finally:
        set_cpu_capability(before)

"""A case run twice, by the emulation and by the machine code of an architecture: what was counted, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from .cases import Case
from .count import Count, bound, count_launch
from .cubin import Kernel, kernels
from .launches import Emulation, Recorded, comparable
from .throughput import DEVICES, PIPES
from .values import CannotTell

# What both must execute, exactly. Reads of what a thread has read before, and accesses to shared memory, a compiler may
# save or join; a barrier of a warp it adds.
COMPARED = (
    "different global loads", "global stores", "shuffles", "block barriers", "tensor-core instructions",
    "matrix loads", "asynchronous copies",
)  # fmt: skip


def examine(
    case: Case,
    emulation: Emulation,
    library: Path,
    architectures: tuple[str, ...],
    listing: list[str],
) -> dict[str, Any]:
    """Everything that is reported of a case; `listing` receives its instructions with their issue slots."""
    emulation.take_counts()
    with emulation.running():
        expected = tree_leaves(case.call(*case.prepare()))
    emulated = emulation.take_counts()
    found = {}
    for architecture in architectures:
        named = {comparable(name): kernel for name, kernel in kernels(library, architecture).items()}
        try:
            found[architecture] = _by_machine_code(case, emulation, emulated, expected, named, architecture, listing)
        except CannotTell as reason:
            found[architecture] = {"cannot tell": str(reason)}
    return {"case": case.name, "unit": case.unit, "units": case.units, "architectures": found}


def _by_machine_code(
    case: Case,
    emulation: Emulation,
    emulated: Mapping[str, int],
    expected: list[Any],
    named: Mapping[str, Kernel],
    architecture: str,
    listing: list[str],
) -> dict[str, Any]:
    total, launches = Count(), []

    def run(launch: Recorded) -> bool:
        nonlocal total
        kernel = named.get(comparable(launch.kernel))
        if kernel is None:
            raise CannotTell(f"no machine code is called {launch.kernel}")
        count = count_launch(kernel, launch)
        total = total + count
        launches.append(describe_launch(kernel, launch, count, case.units))
        return True

    with emulation.running(run):
        computed = tree_leaves(case.call(*case.prepare()))
    listing += [
        f"{architecture} {32 * issues / case.units:9.3f}  {address:05x}  {text}"
        for (_, address, text), issues in sorted(total.listing.items())
    ]
    return {
        "launches": launches,
        **numbers(total, case.units),
        "differs": _difference(expected, computed),
        "disagreements": disagreements(emulated, total, case.stores_of_a_vector),
        "bounds": {device.name: _bound(total, case.units, device) for device in DEVICES if device.runs == architecture},
    }


def numbers(count: Count, units: int) -> dict[str, Any]:
    """A count, for each unit of the case."""
    return {
        "issue slots": round(32 * count.issues / units, 3),
        "pipes": {pipe: round(32 * count.pipes[pipe] / units, 3) for pipe in PIPES if count.pipes[pipe]},
        "bytes": {
            "asked": round(count.asked_bytes / units, 3),
            "between caches": round(count.cache_bytes / units, 3),
            "memory": round(count.memory_bytes / units, 3),
        },
        "spills": round(32 * count.spills / units, 3),
        "bank conflicts": round(count.wavefronts / count.least_wavefronts - 1, 3) if count.least_wavefronts else 0.0,
    }


def describe_launch(kernel: Kernel, launch: Recorded, count: Count, units: int) -> dict[str, Any]:
    resources = replace(kernel.resources(launch.dynamic_shared_bytes), threads=int(np.prod(launch.block)))
    return {
        "kernel": comparable(launch.kernel),
        "registers": kernel.registers,
        "stack bytes": kernel.stack_bytes,
        "shared bytes": resources.shared_bytes,
        "occupancy": resources.occupancy,
        "issue slots": round(32 * count.issues / units, 3),
    }


def _bound(count: Count, units: int, device: Any) -> dict[str, Any]:
    found = bound(count, units, device)
    described = {"ns": round(found.time, 6), "limit": found.limit, "share of copy": round(found.memory_share, 3)}
    if count.products:
        operations = 2 * count.products / units
        described["share of tensor peak"] = round(operations / found.time / (1000 * device.tensor_peak), 3)
    return described


def _difference(expected: list[Any], computed: list[Any]) -> float:
    """The largest difference of results, relative to the largest number; 1 where integers differ."""
    worst = 0.0
    for a, b in zip(expected, computed, strict=True):
        if isinstance(a, torch.Tensor) and not a.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(a, b) else 1.0)
        elif isinstance(a, torch.Tensor) and a.numel():
            scale = max(a.double().abs().max().item(), 1e-30)
            worst = max(worst, (a.double() - b.double()).abs().max().item() / scale)
    return worst


def disagreements(emulated: Mapping[str, int], count: Count, stores_of_a_vector: int = 1) -> dict[str, list[int]]:
    """Events of which the emulation executes another number than the machine code."""
    found = {}
    for event in COMPARED:
        due = emulated[event] * (stores_of_a_vector if event == "global stores" else 1)
        if due != count.events[event]:
            found[event] = [due, count.events[event]]
    return found

"""From a family's cases to numbers: ours, the reference and the peers in one run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .capability import use_instruction_set
from .ceilings import Ceilings, tf32_matmul
from .machine import Machine, OtherLoad
from .timing import Timing, cold_sets, peak_memory, time_cold, time_warm
from .workload import Contender, Inputs, Workload


def measure_family(
    family: ModuleType, machine: Machine, ceilings: Ceilings, *, budget: float, only: str = ""
) -> Iterator[dict[str, Any]]:
    """The measured cases of a family whose names contain `only`; `budget` is in seconds of cold calls a contender."""
    for case in family.cases(machine.device):
        if only in case.name:
            torch._dynamo.reset()  # each case compiles for its own sizes
            yield measure(family.workload(case, machine.device), machine, ceilings, budget=budget)


def measure(workload: Workload, machine: Machine, ceilings: Ceilings, *, budget: float) -> dict[str, Any]:
    """One case: a dictionary that is written as JSON as it is, times in seconds."""
    with torch.no_grad(), tf32_matmul(False):
        sets = [workload.make_inputs(index) for index in range(cold_sets(workload, machine))]
        errors = [_error(contender, sets[0]) for contender in workload.contenders]
        memory = [_memory(contender, sets[0], machine) for contender in workload.contenders]
        load = OtherLoad()
        timings = _timings(workload.contenders, sets, machine, budget)
        load_of_others = load.share()
        details = dict(workload.details(sets[0])) if workload.details else {}
    best_peer = min(
        cold.median for contender, (cold, _) in zip(workload.contenders, timings, strict=True) if contender.is_peer
    )
    floor = ceilings.floor_seconds(workload.moved_bytes, workload.vector_operations)
    entries = {}
    for contender, (cold, warm), error, peak in zip(workload.contenders, timings, errors, memory, strict=True):
        entries[contender.name] = {
            "peer": contender.is_peer,
            "instruction_set": contender.instruction_set,
            "cold": asdict(cold),
            "warm": asdict(warm),
            "times_faster_than_best_peer": best_peer / cold.median,
            "times_floor": cold.median / floor,
            "error": error,
            "peak_bytes": peak,
        }
    if workload.images is not None:
        details["images a second"] = {name: workload.images / e["cold"]["median"] for name, e in entries.items()}
    return {
        "name": workload.name,
        "read_bytes": workload.read_bytes,
        "written_bytes": workload.written_bytes,
        "vector_operations": workload.vector_operations,
        "sets": len(sets),
        "load_of_others": load_of_others,
        "floor_seconds": floor,
        "memory_floor_seconds": ceilings.memory_floor_seconds(workload.moved_bytes),
        "best_peer_seconds": best_peer,
        "entries": entries,
        "details": details,
    }


def _timings(
    contenders: Sequence[Contender], sets: Sequence[Inputs], machine: Machine, budget: float
) -> list[tuple[Timing, Timing]]:
    """Cold and warm timings. The definition is no rival, and its large temporaries would disturb: it comes last."""
    rivals = [contender for contender in contenders if not contender.name.startswith("reference")]
    definitions = [contender for contender in contenders if contender.name.startswith("reference")]
    cold = time_cold(rivals, sets, machine, budget)
    warm = time_warm(rivals, sets[0], machine, budget / 2)
    if definitions:  # not where they would take minutes
        cold += time_cold(definitions, sets, machine, budget / 2)
        warm += time_warm(definitions, sets[0], machine, budget / 4)
    by_name = {own.name: pair for own, pair in zip([*rivals, *definitions], zip(cold, warm, strict=True), strict=True)}
    return [by_name[contender.name] for contender in contenders]


def _error(contender: Contender, inputs: Inputs) -> float | None:
    """The largest error against float64, relative to max(1, |exact value|)."""
    if contender.accuracy is None:
        return None
    with use_instruction_set(contender.instruction_set):
        computed, exact = contender.accuracy(inputs)
    return max(map(_largest_error, computed, exact))


def _largest_error(computed: Tensor, exact: Tensor) -> float:
    return ((computed.double() - exact).abs() / exact.abs().clamp_min(1)).max().item()


def _memory(contender: Contender, inputs: Inputs, machine: Machine) -> int:
    with use_instruction_set(contender.instruction_set), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's first call may announce what it cannot use here
        contender.run(inputs)
    with use_instruction_set(contender.instruction_set):
        return peak_memory(contender.run, inputs, machine.device)

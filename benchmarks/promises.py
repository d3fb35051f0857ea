"""Bounds that results are held to: data in the families' files, checked by `python -m benchmarks --check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Case = Mapping[str, Any]  # a measured case as `benchmarks.harness` returns it
Entry = Mapping[str, Any]  # one contender's part of it


class NotMeasured(Exception):
    """This run or this machine cannot say: a case left out, an instruction set or a device that is not there."""


@dataclass(frozen=True)
class Promise:
    """A bound on a number computed from the measured cases."""

    text: str  # reads after the number: "6.3 times faster than …"
    measure: Callable[[Mapping[str, Case]], float]  # from cases by name
    needs: Sequence[str]  # names of the cases it reads
    at_least: float | None = None
    at_most: float | None = None
    beside: Callable[[Mapping[str, Case]], str] | None = None  # said with it and bound by nothing

    @property
    def bound(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"

    def holds(self, value: float) -> bool:
        """Whether `value` lies within the bounds; NaN does not."""
        above = self.at_least is None or value >= self.at_least
        below = self.at_most is None or value <= self.at_most
        return above and below


def check(promises: Sequence[Promise], cases: Sequence[Case]) -> tuple[list[str], list[bool]]:
    """One line a promise, and for each that could be measured here whether it holds. The others are said not to be."""
    by_name, lines, held = {case["name"]: case for case in cases}, [], []
    for promise in promises:
        try:
            missing = [name for name in promise.needs if name not in by_name]
            if missing:
                raise NotMeasured(f"{missing[0]} was not run")
            value = promise.measure(by_name)
        except NotMeasured as reason:
            lines.append(f"  --      -- {promise.bound:>7} {promise.text}: not measured, {reason}")
            continue
        held.append(promise.holds(value))
        lines.append(
            f"  {'pass' if held[-1] else 'MISS'} {value:7.2f} {promise.bound:>7} {promise.text} [{promise.needs[0]}]"
        )
        if promise.beside is not None:
            lines.append(f"                       {promise.beside(by_name)}")
    return lines, held


def ours_entry(case: Case, instruction_set: str) -> Entry:
    """Our operation's entry under one instruction set of the CPU."""
    for name, entry in case["entries"].items():
        if name.startswith("ours") and entry["instruction_set"] == instruction_set:
            return entry
    raise NotMeasured(f"no {instruction_set} kernels here")


def avx512_entry(case: Case) -> Entry:
    """Ours on the widest AVX-512 kernels; NotMeasured without any."""
    for name in ("avx512bf16", "avx512vnni", "avx512"):
        try:
            return ours_entry(case, name)
        except NotMeasured:
            continue
    raise NotMeasured("no AVX-512 kernels here")


def seconds(entry: Entry) -> float:
    """Median of the cold calls."""
    return entry["cold"]["median"]


def times_faster(case: Case, entry: Entry, *peers: str) -> float:
    """How many times faster than the fastest of the peers named."""
    for peer in peers:
        if peer not in case["entries"]:
            raise NotMeasured(f"{peer} is not installed")
    return min(seconds(case["entries"][peer]) for peer in peers) / seconds(entry)


def best_peer(case: Case, entry: Entry) -> tuple[float, str]:
    """How many times faster than the fastest of all peers, and which that is."""
    peers = [name for name, other in case["entries"].items() if other["peer"]]
    best = min(peers, key=lambda name: seconds(case["entries"][name]))
    return times_faster(case, entry, best), best


def times_memory_floor(case: Case, entry: Entry) -> float:
    """How many times as long as moving the case's bytes at the copy's rate."""
    return seconds(entry) / case["memory_floor_seconds"]

"""What it costs that freed memory goes back to the kernel: `python -m benchmarks.freed_memory`, for glibc and a CPU.

Each row is measured in fresh processes, as they are and with `host_memory.keep_freed_memory`, which take turns.
Written to benchmarks/results/freed_memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from visgen_fast import ops
from visgen_fast.diffusion import DiffusionObjective, RectifiedFlow, UniformTimes
from visgen_fast.host_memory import keep_freed_memory
from visgen_fast.models import DiT

from . import studies
from .machine import describe, provenance
from .table import as_markdown, milliseconds

_ROUNDS, _LEAST_CALLS, _SECONDS = 3, 5, 3.0


def _diffuse() -> Callable[[], object]:
    x, rows = torch.randn(16, 3, 256, 256), torch.randn(16, 4)
    seeds = torch.arange(16)
    return lambda: ops.diffuse(x, rows, seeds)


def _eager() -> Callable[[], object]:
    x, rows = torch.randn(16, 3, 256, 256), torch.randn(16, 4)
    alpha, sigma, c, d = rows.view(16, 4, 1, 1, 1).unbind(1)

    def run() -> object:
        noise = torch.randn_like(x)
        return alpha * x + sigma * noise, c * x + d * noise

    return run


def _training() -> Callable[[], object]:
    network = DiT(image_size=64, channels=1, patch_size=8, width=96, depth=4, heads=3, classes=10)
    objective = DiffusionObjective(RectifiedFlow(), "velocity", UniformTimes())
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images, labels, seeds = torch.randn(32, 1, 64, 64), torch.zeros(32, dtype=torch.long), torch.arange(32)

    def run() -> object:
        loss = objective(network, images, labels, seeds).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return None

    return run


CASES = {
    "`ops.diffuse`, 16×3×256×256": _diffuse,
    "the same in plain PyTorch": _eager,
    "a training step, DiT of width 96 and depth 4 on 32×1×64×64": _training,
}


def measure(case: str, keep: bool) -> dict[str, float]:
    """Median seconds and page faults of a call, in this process."""
    if keep and not keep_freed_memory():
        raise SystemExit("this C library cannot be asked to keep freed memory")
    run = CASES[case]()
    for _ in range(2):
        run()
    seconds, faults, began = [], [], time.perf_counter()
    while len(seconds) < _LEAST_CALLS or time.perf_counter() - began < _SECONDS:
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {"seconds": statistics.median(seconds), "page_faults": statistics.median(faults)}


def block(path: Path, page: Path) -> str:
    """The table; "" where nothing is stored."""
    stored = studies.read(path)
    if not stored:
        return ""
    rows = [
        (
            entry["case"],
            *(f"{milliseconds(entry[how]['seconds'])} ms" for how in ("returned", "kept")),
            *(f"{entry[how]['page_faults']:,.0f}" for how in ("returned", "kept")),
        )
        for entry in stored["entries"]
    ]
    header = ("", "returned", "kept", "page faults, returned", "kept")
    return f"{as_markdown(header, rows)}\n\n{stored['machine']['name']}, {stored['machine']['threads']} threads.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures all cases and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freed_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=studies.RESULTS / "freed_memory")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one[0], options.one[1] == "kept")))
        return 0
    entries = [{"case": case, **_medians(case)} for case in CASES]
    machine = describe("cpu")
    head = {"study": "freed memory", **provenance(machine)}
    studies.write_results(options.out / "results.json", head, entries)
    print(block(options.out / "results.json", options.out))
    return 0


def _medians(case: str) -> dict[str, Any]:
    """The process in the middle, of those of each kind, which take turns: heaps lie differently from one to another."""
    found: dict[str, list[dict[str, float]]] = {"returned": [], "kept": []}
    for _ in range(_ROUNDS):
        for how, results in found.items():
            command = [sys.executable, "-m", "benchmarks.freed_memory", "--one", case, how]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {how: sorted(results, key=lambda one: one["seconds"])[_ROUNDS // 2] for how, results in found.items()}


if __name__ == "__main__":
    sys.exit(main())

"""How much memory a draw of codes takes beside its logits: `python -m benchmarks.select_memory`, for Linux and a CPU.

The peak of the process's resident memory during one call, as `benchmarks.quantize_memory` counts it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from visgen_fast import ops

from .quantize_memory import resident

LIMIT = 1e6  # bytes
FILTERS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "top-p": {"top_p": 0.96},
    "top-k and top-p": {"top_k": 250, "top_p": 0.96},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the peaks; 1 where one exceeds the promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.select_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--codes", type=int, default=16384)
    options = parser.parse_args(arguments)
    logits, seeds = torch.randn(options.rows, options.codes), torch.arange(options.rows)
    peaks = {name: peak(logits, seeds, filters) for name, filters in FILTERS.items()}
    for name, found in peaks.items():
        size = f"{options.rows}×{options.codes}, {logits.nbytes / 1e6:.0f} MB"
        print(f"{size}, {name}: {found / 1e6:.2f} MB beside them at the peak (≤ {LIMIT / 1e6:g})")
    return int(max(peaks.values()) > LIMIT)


def peak(logits: torch.Tensor, seeds: torch.Tensor, filters: dict[str, Any]) -> int:
    """Bytes during a draw, its codes included."""
    ops.sample_tokens(logits[:2, :300], seeds[:2], **filters)  # what loads and starts once
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    ops.sample_tokens(logits, seeds, **filters)
    return resident("VmHWM") - before


if __name__ == "__main__":
    sys.exit(main())

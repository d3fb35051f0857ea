"""How much memory quantizing takes: `python -m benchmarks.quantize_memory`, for Linux and a CPU.

The peak of the process's resident memory during one call, less what it held before: the kernel's own count, which sees
allocations that no profiler of PyTorch does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from visgen_fast import ops

LIMIT = 300e6  # bytes beyond inputs and outputs, promised for the default size


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the peak; 1 where it exceeds the promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize_memory", description=__doc__.splitlines()[0])
    for name, default in {"vectors": 65536, "dimensions": 256, "codes": 16384, "depth": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    x = torch.randn(options.vectors, options.dimensions)
    codebooks = torch.randn(options.depth, options.codes, options.dimensions)
    ops.residual_quantize(x[:512], codebooks[:, :512])  # what loads and starts once
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    results = ops.residual_quantize(x, codebooks)
    peak = resident("VmHWM") - before
    written = sum(result.nbytes for result in results)
    matrix = 4 * options.vectors * options.codes
    sizes = f"{options.vectors}×{options.dimensions}, K={options.codes}, Q={options.depth}"
    print(
        f"{sizes}: {peak / 1e6:.0f} MB at the peak, of which {written / 1e6:.0f} MB are results; "
        f"a matrix of distances would be {matrix / 1e6:.0f} MB"
    )
    return int(peak - written > LIMIT)


def resident(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    sys.exit(main())

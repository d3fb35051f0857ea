"""How long measures of two sets of pictures take, and how much memory: `python -m benchmarks.picture_sets`, for Linux.

Features are random, 10,000 × 2,048 by default, float32. Each measure is to take a minute and a gigabyte at most, on two
cores that do nothing else; the memory is the peak of the process's resident memory, less what it held before.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from visgen_fast.evaluation import (
    FeatureMoments,
    copies,
    frechet_distance,
    frechet_distance_at_infinity,
    kernel_distance,
    prdc,
)

from .quantize_memory import resident

SECONDS, BYTES = 60.0, 1e9


def _frechet(real: Tensor, made: Tensor) -> float:
    moments = [FeatureMoments(), FeatureMoments()]
    for one, values in zip(moments, (real, made), strict=True):
        for some in values.split(1024):
            one.add(some)
    return frechet_distance(*moments)


MEASURES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "frechet_distance": _frechet,
    "frechet_distance_at_infinity": frechet_distance_at_infinity,
    "kernel_distance": kernel_distance,
    "prdc": prdc,
    "copies": lambda real, made: copies(real, made, made),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints seconds and bytes of each measure; 1 where one exceeds the promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture_sets", description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", choices=[*MEASURES, []], help="which; all by default")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    options = parser.parse_args(arguments)
    generator, failed = torch.Generator().manual_seed(0), False
    real, made = torch.randn(2, options.pictures, options.features, generator=generator)
    for name in options.measures or MEASURES:
        MEASURES[name](real[:64], made[:64])  # what loads and starts once
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        began, busy = time.perf_counter(), time.process_time()
        MEASURES[name](real, made)
        seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
        busy = time.process_time() - busy
        missed = seconds > SECONDS or peak > BYTES
        print(
            f"{name}: {seconds:.1f} s ({busy:.1f} s of a core), {peak / 1e6:.0f} MB{', missed' if missed else ''}",
            flush=True,
        )
        failed = failed or missed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

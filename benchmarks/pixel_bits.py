"""What held-out pixels cost by default settings, and after how long a training: `python -m benchmarks.pixel_bits`.

`pixel-gpt` and `pixel-cnn` on the digits of 17 levels, promised in five minutes, and `pixel-cnn` on Fashion-MNIST of
256, promised in half an hour, each alone on two cores. For comparison: histograms by place cost 2.41 on the digits;
counts given three neighbours 3.41, and lossless WebP 4.04, on Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import studies


@dataclass(frozen=True)
class Promise:
    """Bits per dimension of the held-out images, at most, and the minutes of the whole command that trains."""

    words: tuple[str, ...]
    bits: float
    minutes: float


PROMISES = {
    "digits pixel-gpt": Promise(("pixel-gpt",), 1.9, 5),
    "digits pixel-cnn": Promise(("pixel-cnn",), 2.0, 5),
    "fashion-mnist pixel-cnn": Promise(("pixel-cnn", "--dataset=fashion-mnist"), 2.9, 30),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and prints; 1 where a training failed, took longer than promised, or costs more bits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixel_bits", description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="", metavar="TEXT", help="only those whose name contains this text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("options", nargs="*", help="of `visgen-fast train`, after --")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        kept = [
            _kept(name, Path(folder) / name, asked.threads, asked.options) for name in PROMISES if asked.case in name
        ]
    return int(not all(kept))


def _kept(name: str, out: Path, threads: int, options: Sequence[str]) -> bool:
    """Whether the training keeps its promise."""
    promise = PROMISES[name]
    command = [sys.executable, "-m", "visgen_fast", "train", *promise.words, "--device=cpu", f"--out={out}", *options]
    seconds, complaint = studies.run_logged(command, out.with_suffix(".log"), threads)
    if complaint is not None:
        print(f"{name}: {complaint}", flush=True)
        return False
    bits = json.loads((out / "metrics.json").read_text())["bits_per_dim"]
    promised = f"(≤ {promise.bits:g} in {promise.minutes:g})"
    print(f"{name}: {bits:.3f} bits per dimension after {seconds / 60:.1f} minutes {promised}", flush=True)
    return bits <= promise.bits and seconds <= 60 * promise.minutes


if __name__ == "__main__":
    sys.exit(main())

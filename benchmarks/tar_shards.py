"""A made-up set of tiny pictures in tar files: how long it takes to index and to open, its memory, its random reads.

    python -m benchmarks.tar_shards [--shards 1000] [--each 1000]

Reads are compared with the bare decoder, which is given the same files' content from memory. All shards have the same
pictures, which changes nothing for who reads them.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from visgen_fast.data.image_file import decode
from visgen_fast.data.order import EndlessPermutation
from visgen_fast.data.tar_shards import TarShards, make_index

SIDE, READS = 32, 2000


def make(folder: Path, shards: int, each: int) -> list[bytes]:
    """Writes the shards; the pictures of one."""
    random = np.random.default_rng(0)
    contents = []
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for number in range(each):
            content = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(content, "JPEG")
            contents.append(content.getvalue())
            for kind, part in (("jpg", contents[-1]), ("cls", str(number % 10).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{kind}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    for shard in range(1, shards):
        shutil.copyfile(folder / "000000.tar", folder / f"{shard:06d}.tar")
    return contents


def measure(folder: Path, contents: list[bytes]) -> dict[str, float]:
    process = psutil.Process()
    began = time.monotonic()
    images, _ = make_index(folder)
    indexed = time.monotonic()
    before = process.memory_info().rss
    opening = time.monotonic()
    data = TarShards(folder, SIDE)
    order = EndlessPermutation(len(data), 0)
    indices = order(torch.arange(READS)).tolist()
    opened = time.monotonic() - opening
    rates = {"bare": 0.0, "shards": 0.0}
    for _ in range(3):  # in turns, and the best of them
        for name, read in {
            "bare": lambda: [decode(contents[index % len(contents)], SIDE) for index in indices],
            "shards": lambda: [data.read(indices[at : at + 50]) for at in range(0, READS, 50)],
        }.items():
            start = time.process_time()
            read()
            rates[name] = max(rates[name], READS / (time.process_time() - start))
    return {
        "images": images,
        "seconds to index": indexed - began,
        "seconds to open": opened,
        "MB more": (process.memory_info().rss - before) / 1e6,
        "reads a second": rates["shards"],
        "of the bare decoder's": rates["shards"] / rates["bare"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--each", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), make(Path(folder), options.shards, options.each))
    print("\n".join(f"{name + ':':<24}{value:,.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()

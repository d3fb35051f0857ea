"""Made-up sets of a million tiny pictures: how long they take to open, their memory, their random reads.

    python -m benchmarks.sources [--kinds tar arrow] [--shards 1000] [--each 1000]

Reads are compared with the bare decoder, which is given the same files' content from memory. All shards have the same
pictures, which changes nothing for who reads them. Memory is what a process has of its own: pages of files, which the
operating system takes back, are told beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from visgen_fast.data.hugging_face import HuggingFaceImages
from visgen_fast.data.image_file import decode
from visgen_fast.data.images import Images, training_part
from visgen_fast.data.order import EndlessPermutation
from visgen_fast.data.tar_index import make_index
from visgen_fast.data.tar_shards import TarShards

SIDE, READS, BATCH, ROUNDS = 32, 2000, 50, 5
FILES = 10  # of an Arrow table


def pictures(count: int) -> list[bytes]:
    """JPEG files of noise."""
    random, contents = np.random.default_rng(0), []
    for _ in range(count):
        content = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(content, "JPEG")
        contents.append(content.getvalue())
    return contents


def tar(folder: Path, contents: list[bytes], shards: int) -> Callable[[], Images]:
    """Writes so many shards of these pictures and their index; what opens them."""
    with tarfile.open(folder / "000000.tar", "w") as file:
        for number, content in enumerate(contents):
            for kind, part in (("jpg", content), ("cls", str(number % 10).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{kind}")
                member.size = len(part)
                file.addfile(member, io.BytesIO(part))
    for shard in range(1, shards):
        shutil.copyfile(folder / "000000.tar", folder / f"{shard:06d}.tar")
    began = time.monotonic()
    make_index(folder)
    print(f"{'seconds to index:':<28}{time.monotonic() - began:,.2f}")
    return lambda: TarShards(folder, SIDE)


def arrow(folder: Path, contents: list[bytes], shards: int) -> Callable[[], Images]:
    """Writes a table as `save_to_disk` does, with so many times these pictures; what opens it."""
    import pyarrow as pa

    rows = pa.array([{"bytes": content, "path": None} for content in contents])
    batch = pa.record_batch({"image": rows, "label": [number % 10 for number in range(len(contents))]})
    names = [f"data-{number:05d}-of-{FILES:05d}.arrow" for number in range(FILES)]
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
            for _ in range(number, shards, FILES):
                stream.write_batch(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return lambda: HuggingFaceImages(folder, SIDE)


def memory() -> tuple[float, float]:
    """MB of this process: its own, and pages of files."""
    found = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    resident, own = (int(found[name].split()[0]) / 1e3 for name in ("Rss", "Anonymous"))
    return own, resident - own


def measure(opened: Callable[[], Images], contents: list[bytes]) -> dict[str, float]:
    before, began = memory(), time.monotonic()
    data = opened()
    part = training_part(data)
    seconds, after = time.monotonic() - began, memory()
    order = EndlessPermutation(len(data), 0)
    indices = order(torch.arange(READS)).tolist()
    batches = [indices[at : at + BATCH] for at in range(0, READS, BATCH)]
    readers: dict[str, Callable[[list[int]], object]] = {
        "bare": lambda some: torch.stack([decode(contents[index % len(contents)], SIDE) for index in some]),
        "source": data.read,
    }
    seconds_of = {name: [math.inf] * len(batches) for name in readers}
    for _ in range(ROUNDS):  # batch by batch in turns, and the best of each
        for place, batch in enumerate(batches):
            for name, read in readers.items():
                start = time.thread_time()
                read(batch)
                seconds_of[name][place] = min(seconds_of[name][place], time.thread_time() - start)
    rates = {name: BATCH / statistics.median(found) for name, found in seconds_of.items()}
    return {
        "images": len(data),
        "seconds to open": seconds,
        "MB to open": after[0] - before[0],
        **in_a_worker(part, len(part)),
        "reads a second": rates["source"],
        "of the bare decoder's": rates["source"] / rates["bare"],
    }


def in_a_worker(data: Images, count: int) -> dict[str, float]:
    """MB more of a process that was forked from this one, as loading processes are, and read some thousand images."""

    def work(told) -> None:
        torch.set_num_threads(1)
        before = memory()
        order = EndlessPermutation(count, 1)
        for at in range(0, READS, BATCH):
            data.read(order(torch.arange(at, at + BATCH)).tolist())
        told.put(tuple(now - then for now, then in zip(memory(), before, strict=True)))

    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    worker = context.Process(target=work, args=(told,))
    worker.start()
    own, pages = told.get()
    worker.join()
    return {"MB more of a worker": own, "pages of files, MB": pages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("tar", "arrow"), default=("tar", "arrow"))
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--each", type=int, default=1000)
    options = parser.parse_args()
    makers = {"tar": tar, "arrow": arrow}
    contents = pictures(options.each)
    for kind in options.kinds:
        print(kind)
        with tempfile.TemporaryDirectory() as folder:
            found = measure(makers[kind](Path(folder), contents, options.shards), contents)
        print("\n".join(f"{name + ':':<28}{value:,.2f}" for name, value in found.items()))


if __name__ == "__main__":
    main()

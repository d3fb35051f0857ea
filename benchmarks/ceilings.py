"""The machine's ceilings, measured in the run that uses them, and the floor they put under an operation.

A CPU copies with non-temporal stores between two buffers that are eight times as large as its last-level cache, on the
run's threads; its multiply-add rate is that of independent chains in registers. Both loops are in ceilings.c, compiled
here with the system's compiler. A GPU copies and multiplies matrices (float32, TF32, bfloat16) with torch.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from .machine import Machine

COLD_CACHES = 8  # a working set is cold when it is so many times larger than the last-level cache
_HUGE_PAGE = 2 << 20


@dataclass(frozen=True)
class Ceilings:
    """Rates per second."""

    copy_bytes: float  # bytes read plus bytes written
    copy_method: str
    multiply_adds: float  # single float32 multiply-adds; one lane of one vector instruction
    matmul_flops: dict[str, float]  # by the name of the precision

    def floor_seconds(self, moved_bytes: int, vector_operations: float) -> float:
        """The least time that an operation can take: its bytes at the copy's or its arithmetic at the peak rate."""
        return max(self.memory_floor_seconds(moved_bytes), vector_operations / self.multiply_adds)

    def memory_floor_seconds(self, moved_bytes: int) -> float:
        """The least time that moving so many bytes can take."""
        return moved_bytes / self.copy_bytes

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def measure_ceilings(machine: Machine) -> Ceilings:
    """Takes about two seconds."""
    return _measure_cuda(machine) if machine.device == "cuda" else _measure_cpu(machine)


# ---------------------------------------------------------------------------------------------------------------- CPU


def _measure_cpu(machine: Machine) -> Ceilings:
    library = compiled_loops()
    with ThreadPoolExecutor(machine.threads) as pool:
        copy = _copy_rate(library, pool, machine)
        multiply_adds = _multiply_add_rate(library, pool, machine.threads)
    matmul = {name: _matmul_rate(1024, dtype, "cpu") for name, dtype in _CPU_PRECISIONS.items()}
    return Ceilings(copy, library.copy_method().decode(), multiply_adds, matmul)


_CPU_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compiled_loops() -> ctypes.CDLL:
    """ceilings.c as a library for this very processor."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise RuntimeError(
            "the CPU's ceilings need a C compiler: none of cc, gcc and clang is in PATH and CC is not set."
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "ceilings.so")
        source = Path(__file__).with_name("ceilings.c")
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        built = subprocess.run([compiler, *flags, source, "-o", target], capture_output=True, text=True)
        if built.returncode != 0:
            raise RuntimeError(f"{compiler} could not compile {source.name}:\n{built.stderr}")
        library = ctypes.CDLL(str(target))
    library.copy_nontemporal.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    library.copy_nontemporal.restype = None
    library.copy_method.restype = ctypes.c_char_p
    library.multiply_add.argtypes = [ctypes.c_int64]
    library.multiply_add.restype = ctypes.c_int64
    return library


def _copy_rate(library: ctypes.CDLL, pool: ThreadPoolExecutor, machine: Machine) -> float:
    share = _round_up(COLD_CACHES * machine.cache_bytes // 2 // machine.threads, 4096)
    size = share * machine.threads
    source, target = _huge_pages(size), _huge_pages(size)
    source.fill_(1)
    target.fill_(2)

    def copy_share(thread: int) -> None:
        library.copy_nontemporal(target.data_ptr() + thread * share, source.data_ptr() + thread * share, share)

    def copy() -> None:
        list(pool.map(copy_share, range(machine.threads)))

    return 2 * size / _best_seconds(copy)


def _multiply_add_rate(
    library: ctypes.CDLL, pool: ThreadPoolExecutor, threads: int, iterations: int = 1 << 21
) -> float:
    done = sum(pool.map(library.multiply_add, [iterations] * threads))
    return done / _best_seconds(lambda: list(pool.map(library.multiply_add, [iterations] * threads)))


def _huge_pages(size: int) -> Tensor:
    """Zeroed bytes on large pages where the system grants them: address translation is no part of a memory's rate."""
    memory = mmap.mmap(-1, size + _HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = torch.frombuffer(memory, dtype=torch.uint8)
    offset = -buffer.data_ptr() % _HUGE_PAGE
    return buffer[offset : offset + size]


def _best_seconds(work: Callable[[], object], repeats: int = 12) -> float:
    """The shortest of several runs: a ceiling is what the machine can do, not what its other users leave."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


# ---------------------------------------------------------------------------------------------------------------- GPU


def _measure_cuda(machine: Machine) -> Ceilings:
    size = max(COLD_CACHES * machine.cache_bytes, 1 << 30)
    source, target = (torch.ones(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    copy = 2 * size / _median_cuda_seconds(lambda: target.copy_(source))
    matmul = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        with tf32_matmul(tf32):
            matmul[name] = _matmul_rate(8192, dtype, "cuda")
    # A float32 product without TF32 runs on the ordinary units: two operations a multiply-add.
    return Ceilings(copy, "torch copy", matmul["float32"] / 2, matmul)


@contextmanager
def tf32_matmul(allowed: bool):
    """Matrix products and convolutions on a GPU with or without TF32; as before afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _matmul_rate(size: int, dtype: torch.dtype, device: str) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)

    def product() -> Tensor:
        return torch.mm(left, right, out=result)

    seconds = _median_cuda_seconds(product) if device == "cuda" else _best_seconds(product, repeats=4)
    return 2 * size**3 / seconds


def _median_cuda_seconds(work: Callable[[], object], repeats: int = 20) -> float:
    for _ in range(3):
        work()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1e3

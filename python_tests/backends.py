"""The implementations under test, and how a test runs the operations on one of them.

`cuda-on-host` puts the CUDA sources, compiled for the CPU, in the place of the CPU kernels: everything above them, from
the public function to autograd, is the same. Where the environment's VISGEN_STANDALONE names a program, `aarch64-…` are
all: there are the CPU kernels of that processor, emulated (tools/test_aarch64.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cuda_on_host
import standalone
import torch

from visgen_fast import _library

OPERATIONS = [
    name.removeprefix("visgen_fast::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("visgen_fast::")
]


def cpu_capabilities() -> list[str]:
    """The instruction sets that this build and this machine have, but for one without kernels of its own."""
    current, found = _library.cpu_capability(), []
    for name in _library.INSTRUCTION_SETS:
        try:
            _library.set_cpu_capability(name)
        except ValueError:
            continue
        found.append(name)
    _library.set_cpu_capability(current)
    if "avx512bf16" in found:
        found.remove("avx512vnni")  # whose kernels are all among those of avx512 and avx512bf16 (cpu/kernels.cpp)
    return found


CPU_BACKENDS = [f"cpu-{name}" for name in cpu_capabilities()]
OTHER_BACKENDS = ["cuda-on-host"] + ["cuda"] * torch.cuda.is_available()
if standalone.PROGRAM:
    CPU_BACKENDS, OTHER_BACKENDS = [f"aarch64-{name}" for name in standalone.PROCESSORS], []
BACKENDS = CPU_BACKENDS + OTHER_BACKENDS


def device_of(backend: str) -> torch.device:
    return torch.device("cuda" if backend == "cuda" else "cpu")


@contextmanager
def _in_place_of_cpu(operation: Callable[[str], Callable[..., object]]) -> Iterator[None]:
    library = torch.library.Library("visgen_fast", "IMPL")  # noqa: TOR901  (destroyed below, on purpose)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # the override is meant
        for name in OPERATIONS:
            library.impl(name, operation(name), "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


@contextmanager
def running_on(backend: str) -> Iterator[torch.device]:
    """Inside, the operations run on `backend`; gives the device that tensors must be on."""
    if backend == "cuda-on-host":
        cuda_on_host.load_operations()
        with _in_place_of_cpu(lambda name: getattr(torch.ops.visgen_fast_cuda_on_host, name).default):
            yield torch.device("cpu")
    elif backend.startswith("aarch64-"):
        with standalone.emulated(backend.removeprefix("aarch64-")) as operation, _in_place_of_cpu(operation):
            yield torch.device("cpu")
    elif backend == "cuda":
        yield torch.device("cuda")
    else:
        before = _library.cpu_capability()
        _library.set_cpu_capability(backend.removeprefix("cpu-"))
        try:
            yield torch.device("cpu")
        finally:
            _library.set_cpu_capability(before)

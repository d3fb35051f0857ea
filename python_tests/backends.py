"""The implementations under test, and how a test runs the operations on one of them.

`cuda-on-host` puts the CUDA sources, compiled for the CPU, in the place of the CPU kernels: everything above them, from
the public function to autograd, is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import cuda_on_host
import torch

from visgen_fast import _library

OPERATIONS = [
    name.removeprefix("visgen_fast::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("visgen_fast::")
]


def cpu_capabilities() -> list[str]:
    """The instruction sets that this build and this machine have."""
    current, found = _library.cpu_capability(), []
    for name in ("baseline", "avx2", "avx512", "avx512vnni"):
        try:
            _library.set_cpu_capability(name)
        except ValueError:
            continue
        found.append(name)
    _library.set_cpu_capability(current)
    return found


BACKENDS = [f"cpu-{name}" for name in cpu_capabilities()] + ["cuda-on-host"] + ["cuda"] * torch.cuda.is_available()


def device_of(backend: str) -> torch.device:
    return torch.device("cuda" if backend == "cuda" else "cpu")


@contextmanager
def running_on(backend: str) -> Iterator[torch.device]:
    """Inside, the operations run on `backend`; gives the device that tensors must be on."""
    if backend == "cuda-on-host":
        cuda_on_host.load_operations()
        library = torch.library.Library("visgen_fast", "IMPL")  # noqa: TOR901  (destroyed below, on purpose)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")  # the override is meant
            for name in OPERATIONS:
                emulated = getattr(torch.ops.visgen_fast_cuda_on_host, name).default
                library.impl(name, emulated, "CPU", allow_override=True)
        try:
            yield torch.device("cpu")
        finally:
            library._destroy()
    elif backend == "cuda":
        yield torch.device("cuda")
    else:
        before = _library.cpu_capability()
        _library.set_cpu_capability(backend.removeprefix("cpu-"))
        try:
            yield torch.device("cpu")
        finally:
            _library.set_cpu_capability(before)

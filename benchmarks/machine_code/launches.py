"""The launches of a call, as the emulation of CUDA sees them, and the machine code in its place."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
EVENTS = (
    "global loads", "global stores", "global atomics", "shared loads", "shared stores", "shared atomics", "shuffles",
    "votes", "block barriers", "warp barriers", "tensor-core instructions", "matrix loads", "asynchronous copies",
    "different global loads",
)  # fmt: skip
_OBSERVER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t
)


@dataclass(frozen=True)
class Recorded:
    """A launch of the emulation; the arguments are laid out as std::tuple has them."""

    kernel: str  # "forward<float, 8, true>"
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_shared_bytes: int
    arguments: bytes


class Emulation:
    """The checked build of csrc/cuda_on_host, which counts; the operations run on it inside `running`."""

    def __init__(self) -> None:
        folder = str(ROOT / "python_tests")
        if folder not in sys.path:
            sys.path.insert(0, folder)
        os.environ["VISGEN_CUDA_ON_HOST"] = "checked"
        import cuda_on_host

        self._library = ctypes.CDLL(str(cuda_on_host.load_operations()))

    @contextmanager
    def running(self, observer: Callable[[Recorded], bool] | None = None) -> Iterator[None]:
        """`observer` sees each launch before it runs; it does not run where the observer says True."""
        failure: list[BaseException] = []

        def observe(kernel: bytes, shape: object, dynamic: int, arguments: int, size: int) -> int:
            dims = tuple(shape[k] for k in range(6))
            launch = Recorded(kernel.decode(), dims[:3], dims[3:], dynamic, ctypes.string_at(arguments, size))
            try:
                return int(bool(observer(launch)))
            except BaseException as error:  # must not pass through C++
                failure.append(error)
                return 1

        callback = _OBSERVER(observe) if observer else _OBSERVER()
        self._library.visgen_host_set_observer(callback)
        try:
            with _emulated_operations():
                yield
        finally:
            self._library.visgen_host_set_observer(_OBSERVER())
            if failure:
                raise failure[0]

    def take_counts(self) -> dict[str, int]:
        """What the threads executed since the last call."""
        counts = (ctypes.c_uint64 * len(EVENTS))()
        self._library.visgen_host_take_counts(counts)
        return dict(zip(EVENTS, counts, strict=True))


@contextmanager
def _emulated_operations() -> Iterator[None]:
    """The emulated operations in the place of the CPU's."""
    prefix = "visgen_fast_cuda_on_host::"
    library = torch.library.Library("visgen_fast", "IMPL")  # noqa: TOR901  (destroyed below, on purpose)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # the override is meant
        for name in torch._C._dispatch_get_all_op_names():
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                emulated = getattr(torch.ops.visgen_fast_cuda_on_host, name).default
                library.impl(name, emulated, "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def parameters_of(arguments: bytes, layout: tuple[tuple[int, int], ...]) -> bytes:
    """A std::tuple's bytes as a kernel's parameters, whose offsets and sizes are `layout`.

    The tuple holds its elements in reverse; one of a single byte may be an empty class, which takes no place there.
    """
    result = bytearray(max(offset + size for offset, size in layout))
    for least in (1, 2):
        places, end, widest = {}, 0, 1
        for offset, size in reversed(layout):
            if size >= least:
                alignment = min(size & -size, 8)
                widest = max(widest, alignment)
                end = -(-end // alignment) * alignment
                places[offset] = (end, size)
                end += size
        if -(-end // widest) * widest == len(arguments):
            for offset, (start, size) in places.items():
                result[offset : offset + size] = arguments[start : start + size]
            return bytes(result)
    raise ValueError(f"{len(arguments)} bytes of arguments don't fit parameters of {layout}")


@functools.cache
def _enumerators() -> dict[str, str]:
    """The numbers of all scoped enumerations of csrc: "Distribution::gaussian" is "0"."""
    found = {}
    for file in (ROOT / "csrc").rglob("*.*h"):
        for name, body in re.findall(r"enum class (\w+)[^{;]*\{([^}]*)\}", file.read_text()):
            number = 0
            for entry in re.sub(r"//.*", "", body).split(","):
                word, _, value = (part.strip() for part in entry.partition("="))
                if word:
                    number = int(value, 0) if value else number
                    found[f"{name}::{word}"] = str(number)
                    number += 1
    return found


def comparable(kernel: str) -> str:
    """A kernel's name without namespaces and types of enumerations, the same from g++ and from c++filt."""
    kernel = kernel.replace("{anonymous}::", "").replace("(anonymous namespace)::", "").replace("visgen::", "")
    kernel = re.sub(r"\((\w+(?:::\w+)*)\)(\d+)", r"\2", kernel)
    for name, number in _enumerators().items():
        kernel = re.sub(rf"\b(?:\w+::)*{name}\b", number, kernel)
    return kernel.replace(" ", "")

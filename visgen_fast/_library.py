"""Finds and loads the compiled libraries, and knows for which devices they have kernels."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent / "lib"
_DEVICES = {"meta"}


def _load(name: str) -> ctypes.CDLL | None:
    path = next((p for suffix in (".so", ".dylib") if (p := _FOLDER / f"lib{name}{suffix}").exists()), None)
    if path is None:
        return None
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def driver_version() -> int:
    """The newest CUDA version the installed driver supports, as 1000·major + 10·minor; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    version = ctypes.c_int()
    return version.value if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0


def _load_cuda(built_with: int) -> None:
    driver = driver_version()
    if not built_with or not driver or torch.version.cuda is None:
        return
    if driver // 1000 < built_with // 1000:  # a driver runs every minor version of its own major one
        built, supported = (f"{v // 1000}.{v % 1000 // 10}" for v in (built_with, driver))
        warnings.warn(
            f"visgen_fast was built with CUDA {built}, but the driver supports CUDA {supported}: "
            "its CUDA kernels are not loaded.",
            stacklevel=2,
        )
    elif _load("visgen_fast_cuda") is not None:
        _DEVICES.add("cuda")


def _load_cpu() -> ctypes.CDLL:
    library = _load("visgen_fast_cpu")
    if library is None:
        raise ImportError(f"visgen_fast's compiled library is not in {_FOLDER}; build it with `pip install .`")
    library.visgen_fast_cpu_capability.restype = ctypes.c_char_p
    _DEVICES.add("cpu")
    return library


_cpu = _load_cpu()
_load_cuda(_cpu.visgen_fast_cuda_version())


@cache
def _warn_once(device_type: str) -> None:
    warnings.warn(f"visgen_fast has no compiled kernels for {device_type}: the PyTorch reference runs.", stacklevel=4)


def has_kernels(device: torch.device) -> bool:
    """Whether the compiled half serves `device`; warns the first time that it does not."""
    if device.type in _DEVICES:
        return True
    _warn_once(device.type)
    return False


def build_of(device: torch.device) -> str:
    """What changes with every build of the library that serves the device."""
    path = next(_FOLDER.glob(f"libvisgen_fast_{device.type}.*"), None)
    return f"{path.stat().st_size}-{path.stat().st_mtime_ns}" if path else "none"


# Of all processors, ascending: those that a build has are in the order of csrc/cpu/kernels.cpp.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512vnni", "avx512bf16", "dotprod")


def cpu_capability() -> str:
    """The instruction set the CPU kernels use, one of INSTRUCTION_SETS."""
    return _cpu.visgen_fast_cpu_capability().decode()


def set_cpu_capability(name: str) -> None:
    """Choose the CPU kernels' instruction set for this process; ValueError if the machine or the build lacks it."""
    if not _cpu.visgen_fast_set_cpu_capability(name.encode()):
        raise ValueError(f"name must be an instruction set of this machine and build, got {name!r}")


FILTERS = ("int8", "int16", "float32", "exact")  # numbered as in csrc/cpu/search/search.h


@contextmanager
def use_filters_from(name: str) -> Iterator[None]:
    """For tests and measurements: inside, searches for the nearest code on the CPU begin with this filter, or the first
    after it that the instruction set has. Results do not depend on it."""
    before = _cpu.visgen_fast_set_first_filter(FILTERS.index(name))
    try:
        yield
    finally:
        _cpu.visgen_fast_set_first_filter(before)

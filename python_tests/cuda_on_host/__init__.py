"""Builds and calls the libraries of csrc/cuda_on_host."""

import ctypes
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
GPU = "_gpu"
VARIANTS = ["", "_checked"] + [GPU] * torch.cuda.is_available()  # of the test kernels
FAULTS = ROOT / "csrc" / "cuda_on_host" / "tests" / "faults.cu"


def _program(name: str) -> str:
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        raise RuntimeError(f"the emulation of CUDA is built with {name}, which was not found: pip install {name}")
    return path


def _run(command: list[object], environment: dict[str, str]) -> None:
    result = subprocess.run(
        [str(part) for part in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0:
        raise RuntimeError(f"the emulation of CUDA could not be built:\n{result.stdout[-8000:]}")


@functools.cache
def build(target: str) -> Path:
    """The path of a library of csrc/cuda_on_host/CMakeLists.txt, built first where its sources have changed.

    It is built in ``build/cmake``, where an editable installation has been built, or else in ``build/cuda_on_host``.

    Args:
        target: ``cuda_on_host`` or ``cuda_on_host_tests``, alone or with ``_checked`` or ``_sanitized``.

    Raises:
        RuntimeError: with the end of the compiler's output, if the build fails.
    """
    folder, environment = ROOT / "build" / "cmake", dict(os.environ)
    if not (folder / "CMakeCache.txt").exists():
        folder, environment = ROOT / "build" / "cuda_on_host", {**os.environ, "VISGEN_CUDA": "0"}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "CMakeCache.txt").exists():
            ninja = _program("ninja")
            configure = [_program("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
            _run([*configure, f"-DVISGEN_PYTHON={sys.executable}", "-DVISGEN_PYTHONS="], environment)
        jobs = ["--parallel", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        _run([_program("cmake"), "--build", folder, "--target", target, *jobs], environment)
    prefix = "lib" if "tests" in target else "libvisgen_fast_"
    return folder / "csrc" / "cuda_on_host" / f"{prefix}{target}.so"


@functools.cache
def load_operations() -> Path:
    """Loads the emulated operations as ``torch.ops.visgen_fast_cuda_on_host``, and says from which library.

    The environment's VISGEN_CUDA_ON_HOST chooses the build: ``fast`` (the default), ``checked`` (every access to memory
    is checked; tensors made before are unknown to the checker) or ``sanitized`` (for processes that were started with
    the address sanitizer preloaded).
    """
    variant = os.environ.get("VISGEN_CUDA_ON_HOST", "fast")
    if variant not in ("fast", "checked", "sanitized"):
        raise ValueError(f"VISGEN_CUDA_ON_HOST must be fast, checked or sanitized, not {variant!r}")
    library = build("cuda_on_host" if variant == "fast" else f"cuda_on_host_{variant}")
    torch.ops.load_library(library)
    return library


def build_for_gpu() -> Path:
    """The path of the same test kernels compiled by nvcc for the GPU of this machine."""
    library = ROOT / "build" / "libcuda_tests.so"
    library.parent.mkdir(exist_ok=True)
    options = ["-std=c++20", "-shared", "-arch=native", "-DUSE_CUDA", "-Xcompiler", "-fPIC"]
    sources = [FAULTS.with_name(name) for name in ("basics.cu", "layouts.cu")]
    includes = f"-I{Path(torch.__file__).parent / 'include'}"
    _run([_program("nvcc"), *options, includes, *sources, "-o", library], dict(os.environ))
    return library


class Kernels:
    """The test kernels of csrc/cuda_on_host/tests, compiled for the CPU or, on a machine with a GPU, for that.

    ``kernels.name(arguments…)`` calls ``visgen_test_name`` and returns its report: the empty string, or the sentence
    about a fault. Arrays are passed as pointers; in a checked library they are what the kernel may touch.
    """

    def __init__(self, variant: str) -> None:
        self._library = ctypes.CDLL(str(build_for_gpu() if variant == GPU else build(f"cuda_on_host_tests{variant}")))
        self._variant = variant

    def set_schedule(self, seed: int) -> None:
        """The order in which lanes, warps and blocks run: 0 ascending, -1 descending, other seeds shuffle."""
        if self._variant != GPU:
            self._library.visgen_host_set_schedule(ctypes.c_int64(seed))

    def __getattr__(self, name: str) -> "functools.partial[str]":
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: object) -> str:
        function = getattr(self._library, f"visgen_test_{name}")
        function.restype = ctypes.c_char_p
        arrays = [argument for argument in arguments if isinstance(argument, np.ndarray)]
        if self._variant == GPU:
            return _call_on_gpu(function, arguments, arrays)
        for array in arrays if self._variant == "_checked" else []:
            self._library.visgen_host_register_buffer(_as_c(array), ctypes.c_size_t(array.nbytes))
        try:
            return function(*map(_as_c, arguments)).decode()
        finally:
            for array in arrays if self._variant == "_checked" else []:
                self._library.visgen_host_forget_buffer(_as_c(array))


def _call_on_gpu(function: Callable[..., bytes], arguments: Sequence[object], arrays: list[np.ndarray]) -> str:
    """The call with copies of the arrays on the GPU, copied back afterwards."""
    copies = {id(array): torch.from_numpy(array.reshape(-1).view(np.uint8)).cuda() for array in arrays}
    on_gpu = [
        ctypes.c_void_p(copies[id(argument)].data_ptr()) if id(argument) in copies else _as_c(argument)
        for argument in arguments
    ]
    report = function(*on_gpu).decode()
    for array in arrays:
        array.reshape(-1).view(np.uint8)[:] = copies[id(array)].cpu().numpy()
    return report


def _as_c(argument: object) -> object:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, str):
        return ctypes.c_char_p(argument.encode())
    if isinstance(argument, bool):
        return ctypes.c_bool(argument)
    return ctypes.c_int64(argument)


@functools.cache
def kernels(variant: str = "") -> Kernels:
    """The test kernels: variant "" is fast, "_checked" checks every access to memory, GPU runs on the GPU."""
    return Kernels(variant)


def aligned(array: np.ndarray, multiple: int = 64) -> np.ndarray:
    """A copy of an array at an address that is a multiple of `multiple` bytes."""
    memory = np.empty(array.nbytes + multiple, np.uint8)
    start = -memory.ctypes.data % multiple
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def marked_lines() -> dict[str, list[int]]:
    """For each wrong kernel of faults.cu the lines marked with its name, where a report may see the fault."""
    lines: dict[str, list[int]] = {}
    for number, line in enumerate(FAULTS.read_text().splitlines(), start=1):
        for name in re.findall(r"// fault: (\w+)", line):
            lines.setdefault(name, []).append(number)
    return lines

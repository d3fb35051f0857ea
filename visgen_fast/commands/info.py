"""`visgen-fast info`: shows versions, device and compiled libraries."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import parse

if TYPE_CHECKING:
    import torch


def version() -> str:
    """The version of the package."""
    import importlib.metadata

    try:
        return importlib.metadata.version("visgen_fast")
    except importlib.metadata.PackageNotFoundError:
        return "not installed, used from a checkout"


@dataclass(frozen=True)
class Info:
    """Show versions, device and compiled libraries."""

    check: bool = False
    """Compare the kernels of every family with plain PyTorch on each device; exit code 1 if one is wrong."""


def info(arguments: list[str]) -> int:
    import platform

    import torch

    options = parse(Info, arguments, "visgen-fast info")
    from visgen_fast import ops  # noqa: F401  loads the compiled libraries

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    libraries = [path for path in sorted(torch.ops.loaded_libraries) if "visgen_fast" in path]
    rows = {
        "visgen_fast": version(),
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "device": "cpu" if accelerator is None else _device_name(accelerator),
        "cpu threads": str(torch.get_num_threads()),
        "libraries": "\n".join(libraries) or "none: the operations run in plain PyTorch",
        **_build_rows(),
    }
    for name, value in rows.items():
        print(f"{name:<20}" + value.replace("\n", "\n" + " " * 20))
    return _check() if options.check else 0


def _check() -> int:
    """Prints and remembers what is wrong with each family on each device that has kernels."""
    import torch

    from visgen_fast import _trust
    from visgen_fast.ops import _self_test

    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    wrong = 0
    for device in devices:
        print(f"\n{_trust.identity_of(device)}")
        found = {}
        for family in _self_test.FAMILIES:
            with _trust.untested():
                _self_test.complaint_about(family, device)  # the first call loads and allocates
                began = time.perf_counter()
                found[family] = _self_test.complaint_about(family, device)
            print(f"  {family:<18}{1e3 * (time.perf_counter() - began):7.1f} ms  {found[family] or 'right'}")
        wrong += sum(map(bool, found.values()))
        _trust.remember(_trust.identity_of(device), found)
    return int(wrong > 0)


def _device_name(device: torch.device) -> str:
    import torch

    return f"{device.type} ({torch.cuda.get_device_name()})" if device.type == "cuda" else device.type


def _build_rows() -> dict[str, str]:
    """What the optional module `_C` says of the build."""
    try:
        from visgen_fast import _C
    except ImportError:
        return {"build": "unknown: visgen_fast._C was not built for this Python"}
    build = {name: _one_line(value) for name, value in _C.build_info().items()}
    return {"cpu capability": _C.cpu_capability(), **{name.replace("_", " "): text for name, text in build.items()}}


def _one_line(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)

"""Whether kernels compute right on a device that nobody has reported on: found out before their first use there.

An architecture without a report under benchmarks/results is unproven. There, each family of operations is compared with
the reference once, on small awkward cases, and the outcome is kept on disk for this driver and this build. Where they
disagree, plain PyTorch serves, and one warning says so. VISGEN_SELF_TEST=0 trusts everything, =verbose tells of each.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from . import _library

PROVEN: frozenset[tuple[int, int]] = frozenset()
"""Compute capabilities of GPUs with a report under benchmarks/results."""

UNPROVEN_DEVICES = {"cuda"}  # types of devices that are not simply trusted

_outcomes: dict[tuple[str, str, int | None], bool] = {}


@cache
def _mode() -> str:
    return os.environ.get("VISGEN_SELF_TEST", "1")


def serves(family: str, device: torch.device, test: Callable[[str, torch.device], str]) -> bool:
    """Whether the family's kernels may run on the device. `test` says what is wrong with them, or "".

    Under a capture, a compiler, a transform or a mode that only looks, nothing can be tried out: what is not known yet
    is not trusted there.
    """
    known = _known(family, device)
    if known is not None:
        return known
    if torch.compiler.is_compiling() or _is_watched() or _is_capturing(device):
        return False
    return _settled(family, device, _found_out(family, device, test))


def _known(family: str, device: torch.device) -> bool | None:
    """What this process, the environment, a report or the disk says of it; None where they say nothing."""
    key = (family, device.type, device.index)
    if key not in _outcomes:
        if _is_trusted(device):
            _outcomes[key] = True
        elif (complaint := read().get(identity_of(device), {}).get(family)) is not None:
            _settled(family, device, complaint)
    return _outcomes.get(key)


# A compiler calls it and keeps the answer; `torch.compiler.assume_constant_result` would import all of the compiler.
_known._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _settled(family: str, device: torch.device, complaint: str) -> bool:
    """Remembers whether there is no complaint, and warns of one."""
    _outcomes[family, device.type, device.index] = not complaint
    if complaint:
        warnings.warn(
            f"visgen_fast's {complaint} on {name_of(device)}: plain PyTorch serves the family {family} there. Please "
            "report this with what `visgen-fast info --check` prints.",
            stacklevel=6,
        )
    return not complaint


@contextmanager
def untested() -> Iterator[None]:
    """Inside, all kernels run: for whoever tests them."""
    types = set(UNPROVEN_DEVICES)
    UNPROVEN_DEVICES.clear()
    try:
        yield
    finally:
        UNPROVEN_DEVICES.update(types)


def _is_watched() -> bool:
    """Whether a transform, or a mode as of fake tensors, takes operations in its own way."""
    return torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack() > 0


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _is_trusted(device: torch.device) -> bool:
    return _mode() == "0" or (device.type == "cuda" and torch.cuda.get_device_capability(device) in PROVEN)


def _found_out(family: str, device: torch.device, test: Callable[[str, torch.device], str]) -> str:
    """What the test says."""
    with untested(), device, torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        complaint = test(family, device)
    remember(identity_of(device), {family: complaint})
    if _mode() == "verbose":
        print(f"visgen_fast: {family} on {name_of(device)}: {complaint or 'right'}", file=sys.stderr)
    return complaint


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def identity_of(device: torch.device) -> str:
    """Device, driver and build: what an outcome holds for."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else _library.cpu_capability()
    return f"{name_of(device)} {capability}, driver {_library.driver_version()}, build {_library.build_of(device)}"


def outcomes_file() -> Path:
    """Where outcomes are kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "visgen_fast" / "self_test.json"


def read() -> dict[str, dict[str, str]]:
    """Complaints by device and family; {} where there are none, or none that can be read."""
    try:
        known = json.loads(outcomes_file().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(identity: str, complaints: dict[str, str]) -> None:
    """Adds outcomes to those on disk; where that cannot be written, the next process finds them out again."""
    known = read()
    known[identity] = {**known.get(identity, {}), **complaints}
    path = outcomes_file()
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(known, indent=1))
        os.replace(unfinished, path)
    except OSError:
        return

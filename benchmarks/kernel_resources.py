"""Registers, shared memory, stack and occupancy of every kernel of a compiled CUDA library, read with cuobjdump."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_REGISTERS = 65536  # of a multiprocessor, on all architectures below
_REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
_SHARED_UNIT = 128
_SECONDS = 30  # the most that a tool may take


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")."""

    warps: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1024  # shared memory that the system takes from each block


_MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 << 10),
    "sm_86": Multiprocessor(48, 16, 100 << 10),
    "sm_89": Multiprocessor(48, 24, 100 << 10),
    "sm_90": Multiprocessor(64, 32, 228 << 10),
    "sm_100": Multiprocessor(64, 32, 228 << 10),
}


@dataclass(frozen=True)
class KernelResources:
    """One kernel, compiled for one architecture."""

    name: str
    architecture: str
    registers: int  # a thread
    shared_bytes: int  # static, a block
    stack_bytes: int  # a thread: spilled registers and local arrays
    threads: int | None  # the most in a block, from the kernel's launch bounds

    @property
    def occupancy(self) -> float | None:
        """Resident warps over the most possible, for blocks of `threads` that ask for no dynamic shared memory."""
        limits = _MULTIPROCESSORS.get(self.architecture.rstrip("af"))
        if limits is None or self.threads is None:
            return None
        warps = -(-self.threads // 32)
        registers = _round_up(self.registers * 32, _REGISTER_UNIT) * warps
        # From sm_90 on the compiler counts the reserved part among the kernel's own.
        counted = int(re.sub(r"\D", "", self.architecture)) >= 90 and self.shared_bytes >= limits.reserved_bytes
        shared = _round_up(self.shared_bytes + (0 if counted else limits.reserved_bytes), _SHARED_UNIT)
        blocks = min(limits.blocks, limits.warps // warps, _REGISTERS // registers, limits.shared_bytes // shared)
        return blocks * warps / limits.warps


def toolkit_program(name: str) -> str | None:
    """A program of the CUDA toolkit, where the build looks too: PATH, then $CUDA_HOME or else /usr/local/cuda."""
    toolkit = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "bin"
    return shutil.which(name) or shutil.which(name, path=str(toolkit))


def kernel_resources(library: Path, architecture: str | None = None) -> list[KernelResources]:
    """The kernels of `library`, of one architecture ("sm_90") or of all; RuntimeError where they cannot be read."""
    tool = toolkit_program("cuobjdump")
    if tool is None:
        raise RuntimeError("cuobjdump is neither in PATH nor in the CUDA toolkit.")
    chosen = ["-arch", architecture] if architecture else []
    usage = _run([tool, "--dump-resource-usage", *chosen, str(library)])
    bounds = parse_launch_bounds(_run([tool, "-elf", *chosen, str(library)]))
    found = parse_resource_usage(usage, bounds)
    names = readable_names([kernel.name for kernel in found])
    return [KernelResources(**{**vars(kernel), "name": name}) for kernel, name in zip(found, names, strict=True)]


def parse_resource_usage(text: str, bounds: dict[tuple[str, str], int]) -> list[KernelResources]:
    """From the output of `cuobjdump --dump-resource-usage`; `bounds` as from `parse_launch_bounds`."""
    found, architecture, name = [], "", ""
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line):
            architecture = match.group(1)
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match.group(1)
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            threads = bounds.get((architecture, name))
            found.append(KernelResources(name, architecture, registers, shared, stack + local, threads))
    return found


def parse_launch_bounds(text: str) -> dict[tuple[str, str], int]:
    """From the output of `cuobjdump -elf`: the most threads in a block by (architecture, kernel)."""
    bounds, architecture, name, expected = {}, "", "", False
    for line in text.splitlines():
        if match := re.match(r"arch = (\S+)", line):
            architecture = match.group(1)
        elif match := re.match(r"\.nv\.info\.(\S+)", line):
            name = match.group(1)
        elif "EIATTR_MAX_THREADS" in line:
            expected = True
        elif expected and (match := re.match(r"\s*Value:\s*(.+)", line)):
            x, y, z = (int(word, 16) for word in match.group(1).split())
            bounds[architecture, name], expected = x * y * z, False
    return bounds


def readable_names(names: Iterable[str]) -> list[str]:
    """Demangled, without parameters and anonymous namespaces; as they are where there is no c++filt."""
    names = list(names)
    if not names or shutil.which("c++filt") is None:
        return names
    text = _run(["c++filt", *names])
    return [_without_parameters(line) for line in text.splitlines()]


def _without_parameters(signature: str) -> str:
    name = re.sub(r"^void ", "", signature.replace("(anonymous namespace)::", "").replace("visgen::", ""))
    depth = 0
    for index, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return name[:index]
    return name


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

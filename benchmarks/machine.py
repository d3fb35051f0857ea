"""What a result was measured on: processor, caches, threads, versions, commit."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

_CPU_CACHES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Machine:
    """One device and the part of the machine that the run uses."""

    device: str  # "cpu" or "cuda"
    name: str  # the processor's or the GPU's own name
    threads: int
    cache_bytes: int  # last-level cache (CPU: all that the process's CPUs share; GPU: L2)
    instruction_set: str  # what torch's own kernels use; the compute capability on a GPU

    @property
    def slug(self) -> str:
        """The name of the folder its results are kept in."""
        parts = [self.name] + ([f"{self.threads}-threads", self.instruction_set] if self.device == "cpu" else [])
        return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def describe(device: str) -> Machine:
    """The machine as this process sees it, with torch's present number of threads."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        capability = f"sm_{properties.major}{properties.minor}"
        return Machine("cuda", properties.name, torch.get_num_threads(), properties.L2_cache_size, capability)
    instruction_set = torch.backends.cpu.get_cpu_capability().lower()
    return Machine("cpu", _processor_name(), torch.get_num_threads(), last_level_cache_bytes(), instruction_set)


def provenance(machine: Machine) -> dict[str, object]:
    """What a reader of a stored result needs to repeat it."""
    return {
        "machine": asdict(machine),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "system": f"{platform.system()} {platform.release()}",
        },
    }


class OtherLoad:
    """How busy other processes kept the CPUs since this object was made: a quiet machine's times are worth keeping."""

    def __init__(self) -> None:
        self._begin = self._reading()

    def share(self) -> float | None:
        """0 (idle) to 1 (all CPUs taken by others); None where the system does not count."""
        if self._begin is None:
            return None
        own, busy, total = (now - then for now, then in zip(self._reading(), self._begin, strict=True))
        return min(max((busy - own) / max(total, 1e-9), 0.0), 1.0)

    def _reading(self) -> tuple[float, float, float] | None:
        """CPU seconds: this process and its children, everybody, everybody and idling."""
        try:
            fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return None
        ticks, idle = os.sysconf("SC_CLK_TCK"), fields[3] + fields[4]
        # Guests are counted in user time already.
        total = sum(fields[:8])
        return sum(os.times()[:4]), (total - idle) / ticks, total / ticks


def commit() -> str:
    """The checked-out commit, with "+changes" where the tree differs from it; "unknown" outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        return _output(["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"], here)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def last_level_cache_bytes(caches: Path = _CPU_CACHES) -> int:
    """The last-level caches that this process's CPUs reach, each counted once; 32 MiB where the system is silent."""
    reachable: dict[str, int] = {}
    for cpu in _usable_cpus():
        levels = sorted((caches / f"cpu{cpu}" / "cache").glob("index*"), key=lambda index: int(_read(index / "level")))
        if levels:
            reachable[_read(levels[-1] / "shared_cpu_list")] = _size(_read(levels[-1] / "size"))
    return sum(reachable.values()) or 32 << 20


def _usable_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _processor_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _read(path: Path) -> str:
    return path.read_text().strip()


def _size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]?)", text).groups()
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


def _output(command: list[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

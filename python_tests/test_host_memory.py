"""Freed memory is kept where the C library can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from benchmarks import freed_memory
from visgen_fast.host_memory import keep_freed_memory

_FAULTS = """
import resource, sys, torch
from visgen_fast.host_memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
x = torch.zeros(10_000_000)
for _ in range(20):  # the heap settles
    torch.add(x, 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.add(x, 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_large_results_come_in_memory_that_was_freed_before():
    def faults(how):
        command = [sys.executable, "-c", _FAULTS, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert 10 * faults("kept") < faults("returned")


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def missing(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False


def test_the_report_holds_every_case(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        freed_memory, "_medians", lambda case: {how: freed_memory.measure(case, False) for how in ("returned", "kept")}
    )
    monkeypatch.setattr(freed_memory, "_SECONDS", 0.0)
    assert freed_memory.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(case in printed for case in freed_memory.CASES)
    assert freed_memory.block(tmp_path / "results.json", tmp_path) + "\n" == printed
    assert freed_memory.block(tmp_path / "nothing.json", tmp_path) == ""

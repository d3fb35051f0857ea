"""The comparison of training code: it sees a difference, and a case that runs the codebase's own code."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("diffusers")
FILE = Path(__file__).resolve().parents[1] / "tools" / "compare_training.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("compare_training", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", [str(FILE)])
    monkeypatch.setattr(module._noising, "SMALL", module._noising.SMALL)  # which the tool sets
    with warnings.catch_warnings():
        yield module


def test_diffusers_cases_agree(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ("DDPMScheduler.add_noise", "EulerDiscreteScheduler.get_velocity", "DiscreteScheduler.scale_noise", "snr")
    found = [case for case in tool.diffusers_cases() if any(name in case[0] for name in some)]
    assert len(found) >= 5
    monkeypatch.setattr(tool, "cases", lambda *_: found)
    assert tool.main() == 0


@pytest.mark.parametrize(("error", "code"), [(0.0, 0), (1e-5, 1), (float("nan"), 1)])
def test_a_difference_is_seen(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, error: float, code: int) -> None:
    applied: list[bool] = []

    @contextlib.contextmanager
    def apply() -> Iterator[None]:
        applied.append(True)
        yield

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        return [torch.ones(3, dtype=dtype) + error * bool(applied)]

    monkeypatch.setattr(tool, "cases", lambda *_: [("one", run, apply)])
    assert tool.main() == code


def test_a_case_that_runs_the_codebases_own_code_ends_it(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        warnings.warn("runs its own code", stacklevel=1)
        return [torch.ones(1)]

    monkeypatch.setattr(tool, "cases", lambda *_: [("one", run, contextlib.nullcontext)])
    with pytest.raises(UserWarning, match="runs its own code"):
        tool.main()

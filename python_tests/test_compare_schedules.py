"""The comparison with diffusers' schedules: it agrees where that package is, and sees a difference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_schedules", FOLDER / "compare_schedules.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_agrees_or_the_missing_package_is_named(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("diffusers") is None:
        assert tool.main() == 2
        assert capsys.readouterr().err == "diffusers is missing: pip install diffusers\n"
    else:
        assert tool.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(("error", "code"), [(0.0, 0), (1e-5, 1), (float("nan"), 1)])
def test_a_difference_is_seen(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, error: float, code: int) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: tool)
    monkeypatch.setattr(tool, "pairs", lambda: [("one", torch.ones(3), torch.ones(3) + error)])
    assert tool.main() == code

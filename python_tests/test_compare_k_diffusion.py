"""The comparison with k-diffusion: it sees a wrong formula, and says what it needs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tools"
ANCESTRAL = """
import torch
from scipy import integrate
from torchdiffeq import odeint
import torchsde
from tqdm.auto import trange, tqdm
from . import utils

@torch.no_grad()
def sample_euler_ancestral(model, x, sigmas, callback=None, eta=1.0, noise_sampler=None):
    for i in trange(len(sigmas) - 1, disable=None):
        denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]))
        callback({"x": x})
        ratio = sigmas[i + 1] ** 2 / sigmas[i] ** 2
        up = min(sigmas[i + 1], eta * sigmas[i + 1] * (1 - ratio) ** 0.5)
        down = (sigmas[i + 1] ** 2 - up**2) ** 0.5
        x = x + (x - denoised) / utils.append_dims(sigmas[i], x.ndim) * (down - sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + noise_sampler(sigmas[i], sigmas[i + 1]) * up * FACTOR
    return x
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_k_diffusion", FOLDER / "compare_k_diffusion.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("factor", [1.0, 1.0001])
def test_a_formula_that_differs_is_seen(tool: ModuleType, factor: float) -> None:
    before = set(sys.modules)
    theirs = tool.loaded(ANCESTRAL.replace("FACTOR", str(factor)))
    assert not {"torchsde", "torchdiffeq", "k_diffusion"} & (set(sys.modules) - before)
    for sigmas in tool.levels():
        found = tool.difference(theirs, sigmas, "euler-ancestral", {}, "sample_euler_ancestral", {})
        assert (found < tool.TOLERANCE) == (factor == 1.0)


def test_what_is_missing_is_said(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "and nothing.whl is no file" in tool.source(Path("nothing.whl"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tool.source(None).startswith("k-diffusion is missing: pip install --no-deps k-diffusion")
    assert tool.source(tmp_path).startswith("scipy is missing")

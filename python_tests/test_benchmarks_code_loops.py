"""The benchmark of loops that draw codes: what it compares, what it promises, and when it says no."""

from __future__ import annotations

import json

import pytest
import torch
from code_models import awake, sequence

from benchmarks import code_loops
from benchmarks.code_loops import Loop, measure, without_caches
from visgen_fast import ops
from visgen_fast.autoregression import sample, snake


def test_the_loop_without_caches_draws_the_same_codes():
    model = awake(lambda: sequence(snake((3, 3, 1)), 4))
    seeds = ops.derive_seeds(0, torch.arange(3))
    assert torch.equal(without_caches(model, seeds), sample(model, None, seeds))


def loop(other: int = 0, *, at_least: float = 0.0, same: bool = True) -> Loop:
    codes = torch.zeros(2, dtype=torch.int64)
    return Loop("a loop", lambda: codes, "another", lambda: codes + other, at_least, same)


def test_other_codes_are_no_good_unless_they_are_meant_to_differ():
    assert measure(loop(), 2)["right"] and not measure(loop(1), 2)["right"] and measure(loop(1, same=False), 2)["right"]


@pytest.mark.parametrize("at_least, other, code", [(0.0, 0, 0), (1e9, 0, 1), (0.0, 1, 1)])
def test_a_promise_that_is_missed_and_other_codes_are_an_error(at_least, other, code, monkeypatch, tmp_path, capsys):
    found = {"a loop": lambda: loop(other, at_least=at_least)}
    monkeypatch.setattr(code_loops, "loops", lambda device, *checkouts: found)
    out = tmp_path / "times.json"
    assert code_loops.main(["--rounds=1", f"--out={out}"]) == code
    found = json.loads(out.read_text())["loops"][0]
    assert found["name"] == "a loop" and found["times"] == found["peer"] / found["ours"]
    assert ("OTHER CODES" in capsys.readouterr().out) == bool(other)


def test_loops_whose_peer_is_not_there_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(code_loops.importlib.util, "find_spec", lambda name: None)
    assert list(code_loops.loops("cpu")) == ["pixel-cnn 28×28"]
    assert "transformers is not installed" in capsys.readouterr().out

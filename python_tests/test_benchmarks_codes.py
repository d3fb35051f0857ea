"""The commands that hold what models of codes and their draws promise: they measure, and say no where it is broken."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import pixel_bits, select_memory, studies


@pytest.mark.parametrize("bits, minutes, code", [(1.89, 4.9, 0), (1.91, 4.9, 1), (1.89, 5.1, 1)])
def test_bits_and_minutes_are_held_to_their_promise(bits, minutes, code, monkeypatch, capsys):
    def trained(command, log, threads):
        assert command[3:5] == ["train", "pixel-gpt"] and command[-1] == "--steps=2"
        out = log.with_suffix("")
        out.mkdir()
        (out / "metrics.json").write_text(json.dumps({"bits_per_dim": bits}))
        return 60 * minutes, None

    monkeypatch.setattr(studies, "run_logged", trained)
    assert pixel_bits.main(["--case=pixel-gpt", "--", "--steps=2"]) == code
    assert (
        f"digits pixel-gpt: {bits:.3f} bits per dimension after {minutes} minutes (≤ 1.9 in 5)"
        in capsys.readouterr().out
    )


def test_a_training_that_fails_is_no_promise_kept(monkeypatch, capsys):
    broken = {"digits pixel-gpt": replace(pixel_bits.PROMISES["digits pixel-gpt"], words=("no-recipe",))}
    monkeypatch.setattr(pixel_bits, "PROMISES", broken)
    monkeypatch.setattr(studies, "run_logged", lambda *_: (1.0, "failed (no recipe)"))
    assert pixel_bits.main([]) == 1 and "failed (no recipe)" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")
def test_a_draw_takes_less_than_a_megabyte_beside_its_logits(monkeypatch, capsys):
    assert select_memory.main(["--rows=256"]) == 0, capsys.readouterr().out
    monkeypatch.setattr(select_memory, "LIMIT", -1.0)
    assert select_memory.main(["--rows=2"]) == 1

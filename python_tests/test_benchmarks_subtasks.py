"""The study of sub-tasks: every decomposition beside its null, text included, kept and drawn."""

from __future__ import annotations

import json

from PIL import Image

from benchmarks import subtasks


def test_a_tiny_study_measures_text_and_pictures_and_keeps_what_it_has(tmp_path, monkeypatch):
    sizes = ["--width=8", "--steps=2", "--tuning=3", "--samples=32", "--repeats=2"]
    places = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
    assert subtasks.main(["text", "noise", *sizes, *places]) == 0
    stored = json.loads((tmp_path / "out" / "results.json").read_text())["entries"]
    assert [(entry["decomposition"], entry["null"], len(entry["names"])) for entry in stored] == [
        ("text, places in a window", False, 8),
        ("null of text", True, 4),
        ("pictures, noise levels", False, 4),
        ("null of noise", True, 4),
    ]
    assert all(entry["transfer"]["low"] <= entry["transfer"]["value"] <= entry["transfer"]["high"] for entry in stored)
    with Image.open(tmp_path / "out" / "equivariance.png") as figure:
        assert min(figure.size) > 200
    monkeypatch.setattr(subtasks, "measure", None)
    assert subtasks.main(["noise", *sizes, *places]) == 0


def test_text_is_of_frequent_characters_in_windows():
    codes = subtasks.text_codes()
    assert codes.shape[1:] == (subtasks.WINDOW, 1) and len(codes) > 5000
    assert int(codes.max()) == 60 and float((codes == 60).double().mean()) < 0.01

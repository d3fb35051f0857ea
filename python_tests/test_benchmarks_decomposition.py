"""The study of decompositions: what it measures, that it runs and goes on, and what it says of a part that is none."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from benchmarks import decomposition
from benchmarks.decomposition_depth import wasted_share
from benchmarks.decomposition_measures import differ


def test_bits_after_the_best_prefix_are_wasted():
    bits = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 1.0, 2.0]]])
    errors = torch.tensor([[9.0, 2.0, 2.0, 5.0], [9.0, 3.0, 2.0, 1.0]])
    assert wasted_share(bits, errors) == pytest.approx((2 + 3) / 10)


def test_means_differ_beyond_twice_the_error_of_their_difference():
    assert differ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]) and not differ([1.0, 1.6, 0.4], [1.2, 1.7, 0.7])
    assert not differ([1.0], [2.0])  # one seed has no spread


def test_an_unknown_part_is_one_sentence(capsys):
    assert decomposition.main(["position", "colour"]) == 2
    said = capsys.readouterr().err
    assert said == ("benchmarks.decomposition: a part must be one of position, depth, bits, planes, got colour\n")


MEASURED = {
    "position": lambda kind: {"bits_per_dim": 2.0, "by_place": [[1.0, 2.0]] * 2, "least_cosine": 0.1},
    "depth": lambda kind: {
        **{"bits_per_image": 9.0, "first": 5.0, "last": 4.0, "wasted": 0.25, "least_cosine": 0.1},
        **{"by_depth": [5.0] * int(kind), "fid": [3.0] * int(kind)},
    },
    "bits": lambda kind: {"psnr": 20.0 + int(kind), "rfid": 1.0, "bits_per_image": 9.0, "fid": float(kind)},
    "planes": lambda kind: {"by_plane": [0.5] * (int(kind) - 3) + [0.99] * 3, "rfid": 0.01},
}
VERDICTS = {
    "position": "No order differs from another by more than the spread of seeds. Nor are places",
    "depth": "Of the bits, 25% at depth 16 and 25% at depth 4 are of codes after the best prefix.",
    "bits": "FID is least at 4 bits, and no larger code is worse by more than the spread of seeds (+10.0 dB",
    "planes": "The last 3 planes cost 0.99, 0.99, 0.99 bits of a value each, nearly one: they are noise to the model.",
}


@pytest.mark.parametrize("name", decomposition.PARTS)
def test_a_report_has_a_verdict_a_table_and_a_figure(name, tmp_path, monkeypatch):
    part = importlib.import_module(f"benchmarks.decomposition_{name}")
    found = MEASURED[name]
    monkeypatch.setattr(part, "measured", lambda folder, run, measure: {"run": run, **found(run.split("-")[0])})
    entries = part.report(tmp_path, tmp_path, 1, 10, False)
    table = (tmp_path / "table.md").read_text()
    assert VERDICTS[name] in table and "| :-- |" in table and (tmp_path / f"{name}.png").exists()
    names = {run for stage in part.stages(tmp_path, 1, False) for run in stage}
    assert {entry["run"] for entry in entries} <= names


def test_a_part_runs_and_measures_nothing_twice(tmp_path, monkeypatch, capsys):
    command = ["position", "--short", "--seeds=1", "--pictures=16", "--jobs=1"]
    command += [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr("benchmarks.decomposition_position.ORDERS", ("raster", "snake"))
    assert decomposition.main(command) == 0
    out = tmp_path / "out" / "position"
    found = json.loads((out / "results.json").read_text())["entries"]
    assert [entry["run"] for entry in found] == ["raster-0", "snake-0"] and (out / "position.png").exists()
    assert "| raster |" in (out / "table.md").read_text() and len(found[0]["by_place"]) == 8
    assert "trained" in capsys.readouterr().out
    monkeypatch.setattr("benchmarks.trainings._train", None)
    monkeypatch.setattr("benchmarks.decomposition_position._measure", None)
    assert decomposition.main(command) == 0
    assert json.loads((out / "results.json").read_text())["entries"] == found

"""The study of paths: what is known in the plane, that every part runs and goes on, and what it says of none."""

import argparse
import importlib
import json

import pytest

from benchmarks import paths, paths_flows, paths_subtasks
from benchmarks.paths_plane import moons
from visgen_fast import cli


def test_optimal_pairs_lead_from_eight_gaussians_to_moons_at_the_least_energy():
    options = {"seed": 0, "steps": 500, "batch": 128, "count": 500}
    optimal, independent = (moons(coupling, **options) for coupling in ("optimal", "independent"))
    assert abs(optimal["path_energy"] / optimal["wasserstein_2"] - 1) < 0.1
    assert independent["path_energy"] > 1.3 * optimal["path_energy"]


def test_an_unknown_part_is_one_sentence(capsys):
    assert paths.main(["plane", "sphere"]) == 2
    said = capsys.readouterr().err
    assert said == f"benchmarks.paths: a part must be one of {', '.join(paths.PARTS)}, got sphere\n"


@pytest.mark.parametrize("name", ["plane", "gaussians", "mixture"])
def test_a_part_in_the_plane_runs_and_measures_nothing_twice(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.paths_gaussians._COUNT", 64)
    command = [name, "--short", "--seeds=2", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"]
    assert paths.main(command) == 0
    out = tmp_path / name
    found = (out / "results.json").read_text()
    assert json.loads(found)["part"] == name and (out / f"{name}.png").exists()
    assert (out / "table.md").read_text() in capsys.readouterr().out
    part = importlib.import_module(f"benchmarks.paths_{name}")
    monkeypatch.setattr(part, {"plane": "moons", "gaussians": "bridge", "mixture": "learn"}[name], None)
    assert paths.main(command) == 0
    assert json.loads((out / "results.json").read_text())["entries"] == json.loads(found)["entries"]


def train_here(stages, folder, jobs):
    """`train_all` without a process for each training."""
    for stage in stages:
        for name, words in stage.items():
            if not (folder / name / "loss.png").exists():
                command = ["train", *words, "--device=cpu", "--sample-every=0", f"--out={folder / name}"]
                assert cli.main(command) == 0
    return 0


@pytest.mark.parametrize("name", ["bridges", "energies", "flows"])
def test_a_part_of_images_runs_and_measures_nothing_twice(name, tmp_path, monkeypatch):
    part = importlib.import_module(f"benchmarks.paths_{name}")
    monkeypatch.setattr(part, "train_all", train_here)
    if name == "flows":
        monkeypatch.setattr(part, "_seconds", None)  # a short run times nothing
        kept = ("real-nvp", "tar-flow", "rectified-flow")
        monkeypatch.setattr(part, "RUNS", {run: part.RUNS[run] for run in kept})
    if name == "energies":
        monkeypatch.setattr(part, "PAIRS", part.PAIRS[:1])
    command = [name, "--short", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"]
    assert paths.main(command) == 0
    out = tmp_path / name
    found = (out / "results.json").read_text()
    assert (out / f"{name}.png").exists() and "| :-- |" in (out / "table.md").read_text()
    for measure in ("_measure", "_recognised", "_sums"):
        monkeypatch.setattr(part, measure, None, raising=False)
    assert paths.main(command) == 0
    assert json.loads((out / "results.json").read_text())["entries"] == json.loads(found)["entries"]


def test_steps_of_a_flow_fill_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(paths_flows, "_seconds", lambda *_: 0.05)
    options = argparse.Namespace(short=False, minutes=2.0, dataset="digits")
    assert paths_flows._steps(tmp_path, "tar-flow", options) == 2400
    monkeypatch.setattr(paths_flows, "_seconds", None)  # it was timed
    assert paths_flows._steps(tmp_path, "tar-flow", options) == 2400


def test_sub_tasks_of_paths_are_compared_with_those_of_the_fixed_schedule(tmp_path, monkeypatch):
    cases = (paths_subtasks.FIXED, "learned schedule", "DSB, terminal", "DSB matching")
    monkeypatch.setattr(paths_subtasks, "CASES", cases)
    ran = []

    def run_here(command, log, threads=1):
        ran.append(command[3])
        paths_subtasks.main(command[3:])
        return 0.0, None

    monkeypatch.setattr("benchmarks.studies.run_logged", run_here)
    command = ["subtasks", "--short", "--seeds=1", "--jobs=1", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"]
    assert paths.main(command) == 0 and paths.main(command) == 0
    assert ran == list(cases)
    entries = json.loads((tmp_path / "subtasks" / "results.json").read_text())["entries"]
    assert [entry["case"] for entry in entries] == list(cases) and all(entry["seed"] == 0 for entry in entries)
    assert "| DSB, terminal |" in (tmp_path / "subtasks" / "table.md").read_text()
    low, high, _ = paths_subtasks._interval([0.1, 0.2, 0.3])
    assert abs(low - (0.2 - 4.3027 * 0.1 / 3**0.5)) < 1e-3 and abs(low + high - 0.4) < 1e-9

"""The study of scaling laws: runs are kept, laws are those of the points, and likelihood is held against quality."""

from __future__ import annotations

import json

import pytest

from benchmarks import scaling, scaling_run, studies
from benchmarks.scaling_laws import inversions, judges, laws_of, points_of, rank_correlation

TINY = (
    "--dataset=digits --widths 4 8 16 --steps 1 2 3 --seeds=1 --measured=16 --samples=8 --bootstrap=20 --jobs=1".split()
)


def point(width, steps, seed=0, pictures=0, **measures):
    loss = 0.1 + width**-0.8 + 2 * steps**-0.5
    found = {"importance_weighted_loss": loss, "elbo": loss, "kernel_distance": loss, **measures}
    return {
        "width": width,
        "steps": steps,
        "seed": seed,
        "pictures": pictures,
        "parameters": width**2,
        "trained_on": 900,
        **found,
    }


POINTS = [point(width, steps, seed) for width in (4, 8, 16, 32) for steps in (10, 40, 160, 640) for seed in (0, 1)]


def test_laws_are_those_of_the_points_and_the_largest_run_is_predicted_by_the_others():
    laws = laws_of(POINTS, bootstrap=50)
    assert laws["parameters"]["terms"]["parameters"]["exponent"] == pytest.approx(0.4, abs=0.01)
    assert laws["steps"]["terms"]["samples"]["exponent"] == pytest.approx(0.5, abs=0.01)
    assert laws["both"]["left_out"]["off"] == pytest.approx(0, abs=1e-3)
    assert laws["both"]["irreducible"] == pytest.approx(0.1, abs=1e-3)
    assert "at least 3" in laws["pictures"]


def test_a_likelihood_that_misjudges_is_named():
    odd = {"elbo": 0.0, "kernel_distance": 0.5, "importance_weighted_loss": 0.5}
    swapped = [*POINTS, *(point(64, 640, seed, **odd) for seed in (0, 1))]
    assert inversions(POINTS) == []
    named = inversions(swapped)
    assert "width 64, 640 steps has the lower NLL, width 32, 640 steps the better pictures" in named
    found = judges(swapped)
    assert found["elbo"]["correlation"] < found["importance_weighted_loss"]["correlation"] <= 1
    assert judges(POINTS)["elbo"]["low"] == pytest.approx(1)
    assert rank_correlation([point(1, 1, elbo=-one, kernel_distance=one) for one in (1.0, 2.0, 2.0)], "elbo") == -1


def test_a_tiny_study_writes_its_report_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    def here(command, log):
        scaling_run.main(command[3:])
        return 0.0, None

    monkeypatch.setattr(studies, "run_logged", here)
    places = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"]
    assert scaling.main([*TINY, "--pictures", "100", *places]) == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    assert scaling.main([*TINY, "--pictures", "100", "200", *places]) == 0
    assert len(kept) == 5 and kept == {path: path.stat().st_mtime_ns for path in kept}
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(stored["entries"]) == 5 and len(points_of(stored["entries"])) == 15
    assert set(stored["laws"]) == {"parameters", "steps", "pictures", "both"}
    assert (tmp_path / "out" / "laws.png").exists()
    assert "Rank correlation with the kernel distance" in capsys.readouterr().out


def test_wrong_options_are_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        scaling.main(["--widths", "20"])
    assert "--widths must be multiples of 16, or below it, got [20]" in capsys.readouterr().err

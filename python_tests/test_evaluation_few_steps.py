"""Few-step models beside their teachers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from visgen_fast import cli
from visgen_fast.evaluation import Features, evaluate_few_steps

TINY = ["--device=cpu", "--batch-size=4", "--sample-every=0", "--steps=1", "--dataset=digits"]


def drawn(error: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(20, 1, 2, 2, generator=generator) + error


def test_the_error_is_the_distance_to_the_teacher_s_long_run_from_the_same_seeds() -> None:
    features = Features("pixels", "0", 4, lambda pictures: pictures.flatten(1))
    found, shown = evaluate_few_steps(
        lambda steps: drawn(0.5 / steps),
        lambda steps: drawn(0.0 if steps == 64 else 1.0),
        (1, 2),
        data=drawn(0.1),
        features=features,
    )
    assert [(one.model, one.steps) for one in found.measures] == [
        *(("student", 1), ("student", 2)),
        *(("teacher", 1), ("teacher", 2), ("teacher", 64)),
    ]
    assert [round(one.error, 5) for one in found.measures] == [0.5, 0.25, 1, 1, 0]
    assert (
        found.measures[-1].to_teacher.frechet_distance.value < 1e-6 < found.measures[-1].to_data.frechet_distance.value
    )
    assert found.measures[0].to_teacher.frechet_distance.value > found.measures[1].to_teacher.frechet_distance.value
    assert shown.shape == (5, 10, 1, 2, 2)
    bare, _ = evaluate_few_steps(drawn, drawn, (1,))
    assert bare.measures[0].to_teacher is None
    with pytest.raises(ValueError, match="steps must be numbers of at least 1"):
        evaluate_few_steps(drawn, drawn, (0,))


def test_the_command_writes_measures_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--width=8", "--depth=1", "--heads=1", "--patch-size=4"]
    flow, student, judge = (tmp_path / name for name in ("flow", "student", "judge"))
    assert cli.main(["train", "rectified-flow", *TINY, *sizes, f"--out={flow}"]) == 0
    assert cli.main(["train", "shortcut", *TINY, f"--teacher={flow}", "--guidance", "2", f"--out={student}"]) == 0
    assert cli.main(["train", "classifier", *TINY, f"--out={judge}"]) == 0
    command = ["evaluate", str(student), f"--teacher={flow}", "--pictures=20", "--device=cpu", f"--out={tmp_path}"]
    assert cli.main([*command, f"--features={judge}", "--steps", "1", "2"]) == 0
    told = json.loads((tmp_path / "few_steps.json").read_text())
    assert told["recipe"] == "shortcut" and told["guidance"] == 2 and told["pictures"] == 20
    assert [one["steps"] for one in told["measures"]] == [1, 2, 1, 2, 64]
    # It has taken one small step away from its teacher.
    for mine, its in zip(told["measures"][:2], told["measures"][2:4], strict=True):
        assert mine["error"] == pytest.approx(its["error"], rel=0.2)
    assert (tmp_path / "few_steps.png").is_file()
    capsys.readouterr()
    assert cli.main(["evaluate", str(student)]) == 2
    assert "--teacher must be the run that the few-step model is compared with" in capsys.readouterr().err
    assert cli.main(["evaluate", str(flow), f"--teacher={flow}"]) == 2
    assert "--teacher is for a few-step model" in capsys.readouterr().err

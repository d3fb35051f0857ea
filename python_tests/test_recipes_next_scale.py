"""The recipes var-tokenizer, vq-vae-2 and titok, run as a user runs them, on digits."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from visgen_fast import cli
from visgen_fast.training import checkpoint

COMMON = ["--dataset=digits", "--batch-size=16", "--device=cpu", "--warmup-steps=0", "--codes=32", "--dimensions=4"]
CONVOLUTIONS = ["--widths", "8", "16", "--patch-size=1"]
TRANSFORMERS = ["--width=16", "--depth=1", "--heads=2", "--tokens=4"]
# Rows of the figure: the input, and what the first scales, the first level or all codes give.
RECIPES = {"var-tokenizer": (CONVOLUTIONS, 1 + 4), "vq-vae-2": (CONVOLUTIONS, 1 + 2), "titok": (TRANSFORMERS, 1 + 1)}


def train(recipe: str, out: Path, *options: str) -> int:
    return cli.main(["train", recipe, *COMMON, *RECIPES[recipe][0], f"--out={out}", *options])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_goes_on_bit_for_bit_and_leaves_its_reconstructions(recipe: str, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert train(recipe, straight, "--steps=4", "--lr-schedule=constant", "--log-every=1") == 0
    assert train(recipe, resumed, "--steps=2", "--lr-schedule=constant", "--log-every=1") == 0
    assert train(recipe, resumed, "--steps=4", "--lr-schedule=constant", "--log-every=1", "--resume") == 0
    ends = [checkpoint.read(run) for run in (straight, resumed)]
    for part in checkpoint.PARTS:
        first, second = (end.tensors(part) for end in ends)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first), part
    with Image.open(straight / "reconstructions.png") as grid:
        assert grid.height == 4 + RECIPES[recipe][1] * 52
    measured = json.loads((straight / "metrics.json").read_text())
    assert measured["psnr"] > 0 and 0 < measured["usage"] <= 1
    with (straight / "losses.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]


def test_the_second_stage_of_titok_keeps_what_the_first_run_encodes(tmp_path: Path, capsys) -> None:
    assert train("titok", tmp_path / "first", "--steps=3") == 0
    assert train("titok", tmp_path / "second", "--steps=3", f"--decoder-of={tmp_path / 'first'}") == 0
    first = checkpoint.read(tmp_path / "first").tensors("average")
    second = checkpoint.read(tmp_path / "second").tensors("weights")
    kept = {name for name in first if torch.equal(first[name], second[name])}
    assert kept == {name for name in first if not name.startswith("tokenizer.decoder.")}
    capsys.readouterr()
    options = ["--steps=3", f"--decoder-of={tmp_path / 'first'}", "--tokens=5"]
    assert train("titok", tmp_path / "third", *options) == 2
    assert "--decoder-of must be a run of the recipe titok with the same sizes" in capsys.readouterr().err


def test_a_second_stage_s_checkpoint_needs_the_first_run_no_more(tmp_path: Path, capsys) -> None:
    assert train("titok", tmp_path / "first", "--steps=2") == 0
    options = ["--lr-schedule=constant", f"--decoder-of={tmp_path / 'first'}"]
    assert train("titok", tmp_path / "straight", *options, "--steps=4") == 0
    assert train("titok", tmp_path / "resumed", *options, "--steps=2") == 0
    shutil.rmtree(tmp_path / "first")
    assert cli.main(["evaluate", str(tmp_path / "resumed"), "--pictures=20"]) == 0
    assert train("titok", tmp_path / "resumed", *options, "--steps=4", "--resume") == 0
    for part in checkpoint.PARTS:
        first, second = (checkpoint.read(tmp_path / run).tensors(part) for run in ("straight", "resumed"))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first), part
    capsys.readouterr()
    assert train("titok", tmp_path / "new", *options) == 2
    assert f"--decoder-of: {tmp_path / 'first'} holds no checkpoint" in capsys.readouterr().err


def test_scales_that_do_not_end_at_the_map_s_own_are_refused(tmp_path: Path, capsys) -> None:
    assert train("var-tokenizer", tmp_path / "run", "--steps=1", "--patch-numbers", "1", "2") == 2
    assert "patch_numbers must end with 4, the feature map's own, got (1, 2)" in capsys.readouterr().err

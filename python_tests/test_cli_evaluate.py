"""What models draw is compared with other images from the command line, by features of one network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from PIL import Image

from visgen_fast import cli
from visgen_fast.data.images import ImagesInMemory, to_range
from visgen_fast.evaluation import Features
from visgen_fast.systems.compared import copied
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.training.system import Findings

SHORT = ["--dataset=digits", "--batch-size=8", "--steps=3", "--device=cpu", "--sample-every=0"]
FLOW = ["--width=8", "--depth=1", "--heads=1", "--patch-size=4", "--sampling-steps=2"]
OWN = "--features=own_features:quarters"
MEASURES = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the runs `flow`, `other`, another flow, and `cnn`, which holds images out."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in {"flow": 0, "other": 1}.items():
        run = ["train", "rectified-flow", *SHORT, *FLOW, f"--seed={seed}", f"--out={folder / name}"]
        assert cli.main(run) == 0
    assert cli.main(["train", "pixel-cnn", *SHORT, "--width=8", "--depth=1", f"--out={folder / 'cnn'}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def own_features(tmp_path_factory, monkeypatch) -> None:
    folder = tmp_path_factory.mktemp("features")
    quarters = "images.unflatten(2, (2, -1)).unflatten(4, (2, -1)).mean((1, 3, 5)).flatten(1)"
    source = f"def quarters(images):\n    return {quarters}\n"
    (folder / "own_features.py").write_text(source)
    monkeypatch.syspath_prepend(folder)


def found(run: Path, out: Path, *options: str) -> dict:
    command = ["evaluate", str(run), OWN, "--pictures=40", "--bins=1", "--device=cpu", f"--out={out}", *options]
    if run.name == "cnn":
        command.remove("--bins=1")
    assert cli.main(command) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_a_diffusion_model_is_compared_with_its_training_images_class_by_class(runs, tmp_path, capsys):
    one = found(runs / "flow", tmp_path, "--steps=1", "--guidance=1.5", "--by-class", "--pictures=160")
    sets = one["sets"]
    assert sets["against"] == "train" and sets["sampling"]["steps"] == 1 and sets["sampling"]["guidance"] == 1.5
    assert (sets["drawn"]["reference"], sets["drawn"]["pictures"], sets["rebuilt"], sets["copies"]) == (
        160,
        160,
        None,
        None,
    )
    for name in MEASURES:
        estimate = sets["drawn"][name]
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert one["fid"] == sets["drawn"]["frechet_distance"]["value"] > 0 and one["rfid"] is None
    assert one["features"] == {"name": "own_features:quarters", "digest": sets["drawn"]["digest"]}
    assert "0" in sets["classes"] and all(12 <= part["pictures"] < 30 for part in sets["classes"].values())
    printed = capsys.readouterr().out
    assert "fid: " in printed and "class 0: fid" in printed and sets["drawn"]["digest"][:12] in printed
    again = found(runs / "flow", tmp_path, "--steps=1", "--guidance=1.5", "--pictures=160")
    assert again["fid"] == one["fid"] and again["sets"]["classes"] is None


def test_two_runs_are_compared_on_the_same_noise(runs, tmp_path):
    itself, other = (found(runs / "flow", tmp_path, f"--against={runs / name}") for name in ("flow", "other"))
    assert itself["fid"] < 1e-9 < other["fid"] and itself["sets"]["against"] == str(runs / "flow")


def test_a_folder_of_images_is_a_reference_and_its_classes_are_drawn(runs, tmp_path):
    for label in (3, 7):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for number in range(12):
            grey = Image.new("L", (8, 8), 20 * number)
            grey.save(tmp_path / "images" / str(label) / f"{number}.png")
    one = found(runs / "flow", tmp_path, f"--against={tmp_path / 'images'}", "--by-class")
    assert list(one["sets"]["classes"]) == ["3", "7"] and one["sets"]["drawn"]["reference"] == 24


def test_held_out_images_are_the_reference_where_there_are_some_and_copies_are_looked_for(runs, tmp_path):
    one = found(runs / "cnn", tmp_path)
    assert one["sets"]["against"] == "held-out" and one["sets"]["rebuilt"] is not None and one["rfid"] < 1e-6
    seen = found(runs / "cnn", tmp_path, "--against=train")["sets"]["copies"]
    assert 0 <= seen["share"] <= 1 and 0 <= seen["expected"] < 0.05


def test_copies_are_shown_beside_what_they_were_copied_from():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (900, 1, 4, 4), dtype=torch.uint8, generator=generator)
    train = ImagesInMemory(pixels[:500], torch.zeros(500, dtype=torch.int64), ["all"])
    flat = Features("pixels", "digest", 16, lambda images: images.flatten(1))
    made = torch.cat((to_range(pixels[500:690]), to_range(pixels[100:110]) + 1e-3))
    held_out = flat.of([to_range(pixels[700:])])
    seen = copied(train, made.split(50), flat.of([made]), held_out, device=torch.device("cpu"))
    assert 0.05 <= seen.share <= 0.08 and seen.expected <= 0.02
    torch.testing.assert_close(seen.pairs[0, :10], seen.pairs[1, :10], rtol=0, atol=2e-3)


def test_mistakes_are_one_sentence(runs, tmp_path, capsys, monkeypatch):
    def said(run: str, *options: str) -> str:
        return mistake(capsys, "evaluate", runs / run, "--pictures=40", f"--out={tmp_path}", "--device=cpu", *options)

    assert "--against needs --features" in said("flow", "--against=train")
    assert "--against held-out needs held-out images" in said("flow", OWN, "--against=held-out")
    assert "--against must be held-out, train, a run or a folder of images, got nowhere" in said(
        "flow", OWN, "--against=nowhere"
    )
    assert "--steps must be at least 1" in said("flow", OWN, "--steps=0")
    assert "--guidance must lie in" in said("flow", OWN, "--guidance=nan")
    assert "steps must be 64" in said("cnn", OWN, "--steps=3")
    assert "reference must be of at least 12 pictures, got 8" in said("flow", OWN, "--pictures=8", "--bins=1")
    assert "there is no such function" in said("flow", "--features=own_features:thirds")
    monkeypatch.setattr(PriorSystem, "examine", lambda *parts, **options: Findings([], lambda *both: None))
    assert "rectified-flow trains a model without an exact likelihood to measure: give" in said("flow")

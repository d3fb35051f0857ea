"""A diffusion model is measured by noise level from the command line, and what cannot be known is null."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from levels import Gain, gaussian_pictures, seeds
from PIL import Image

from visgen_fast import cli
from visgen_fast.diffusion import CosineVP, DiffusionObjective, KarrasVE, UniformTimes
from visgen_fast.evaluation.diffusion import evaluate_diffusion
from visgen_fast.evaluation.diffusion_report import as_json, as_text, write
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import images_to_measure
from visgen_fast.systems.prior import PriorSystem

TINY = ["--dataset=digits", "--batch-size=8", "--steps=3", "--device=cpu"]
NETWORK = ["--width=16", "--depth=1", "--heads=2", "--patch-size=4", "--sampling-steps=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with short runs of a rectified flow and an autoencoder on digits."""
    folder = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", "rectified-flow", f"--out={folder / 'flow'}", *TINY, *NETWORK]) == 0
    autoencoder = ["--widths", "8", "--dimensions=4"]
    assert cli.main(["train", "autoencoder", f"--out={folder / 'autoencoder'}", *TINY, *autoencoder]) == 0
    return folder


def test_a_run_is_measured_and_its_systems_own_measures_are_among_them(runs, tmp_path, capsys, monkeypatch):
    seen = []

    def evaluate(self, images, *, device):
        seen.append(images)
        return {"bits_per_dimension": 3.25}

    monkeypatch.setattr(PriorSystem, "evaluate", evaluate)
    options = ["--pictures=40", "--bins=3", "--transfer-steps=2", f"--out={tmp_path}", "--device=cpu"]
    assert cli.main(["evaluate", str(runs / "flow"), *options]) == 0
    printed = capsys.readouterr().out
    assert "bits per dimension: 3.25" in printed and "images: 40 that the model was trained on" in printed
    assert "-10.0 to -3.3" in printed and f"written to {tmp_path}" in printed
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert (found["recipe"], found["step"], found["images"], found["held_out"]) == ("rectified-flow", 3, 40, False)
    assert found["measures"] == {"bits_per_dimension": 3.25} and len(seen[0]) == 40
    assert found["scales"] == [1, 2, 4, 8] and len(found["losses"]["log_snr"]) == 7
    assert [len(found["losses"][name][0]) for name in ("epsilon", "x")] == [4, 4]
    assert found["edges"] == pytest.approx([-10, -10 / 3, 10 / 3, 10])
    assert len(found["gradients"]["gram"]) == len(found["min_norm_weights"]) == len(found["transfer"]["together"]) == 3
    for name in ("loss_by_level.png", "gradients.png", "transfer.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300
    assert len({label.item() for label in seen[0].read(range(40))[1]}) == 10


def test_levels_are_those_that_the_schedule_has_and_a_run_without_transfer_draws_none(tmp_path):
    objective = DiffusionObjective(KarrasVE(), "edm", UniformTimes())
    pictures, labels = gaussian_pictures(24, 0.5, (1, 4, 4)), torch.zeros(24, dtype=torch.int64)
    found = evaluate_diffusion(Gain(0.1), objective, pictures, labels, seeds=seeds(24), bins=2)
    assert found.edges.tolist() == pytest.approx([-2 * math.log(80), (10 - 2 * math.log(80)) / 2, 10])
    assert found.scales == (1, 2, 4) and found.transfer is None
    write(found, tmp_path, {"step": 1})
    assert not (tmp_path / "transfer.png").exists() and (tmp_path / "gradients.png").exists()
    narrow = DiffusionObjective(CosineVP(-9, -6), "v", UniformTimes())
    found = evaluate_diffusion(Gain(0.1), narrow, pictures, labels, seeds=seeds(24), bins=2)
    assert found.importance_weighted_loss is None and "importance" not in as_text(found)


def test_what_is_not_known_is_null():
    assert as_json({"a": 1.0}) == {"a": 1.0}
    assert as_json(torch.tensor([[1.0, math.nan], [math.inf, 2.0]])) == [[1.0, None], [None, 2.0]]
    # A model whose gradient is 0 but for the noise.
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes())
    pictures, labels = gaussian_pictures(16, 1.0, (1, 2, 2)), torch.zeros(16, dtype=torch.int64)
    found = evaluate_diffusion(Gain(0.0), objective, pictures, labels, seeds=seeds(16), bins=2)
    assert not found.gradients.cosines.isfinite().any()
    assert as_json(found)["min_norm_weights"] == [None, None] and found.norms.tolist() == [0, 0]
    assert as_text(found).count("–") == 6


def test_images_that_no_run_trains_on_are_preferred():
    flow, autoencoder = load_recipe("rectified-flow"), load_recipe("autoencoder")
    images, held_out = images_to_measure(flow, flow.settings(dataset="photographs", size=8))
    assert held_out and len(images) == 2000
    images, held_out = images_to_measure(flow, flow.settings(dataset="digits"))
    assert not held_out and len(images) == 1797
    images, held_out = images_to_measure(autoencoder, autoencoder.settings(dataset="digits"))
    assert held_out and len(images) == 180


def test_mistakes_in_evaluating_are_answered_in_a_sentence(runs, tmp_path, capsys):
    def mistake(*arguments):
        assert cli.main(["evaluate", *map(str, arguments), "--device=cpu", f"--out={tmp_path}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("visgen-fast: ") and error.count("\n") == 1
        return error

    flow, autoencoder = runs / "flow", runs / "autoencoder"
    assert "--beam is for a tokenizer, and the recipe rectified-flow trains none" in mistake(flow, "--beam=2")
    assert "--features must be a run of the recipe classifier" in mistake(flow, f"--features={autoencoder}")
    assert "--steps needs --features" in mistake(flow, "--steps=2")
    assert "--against is for a model that draws images, and the recipe autoencoder" in mistake(
        autoencoder, "--against=train"
    )
    assert "--bins is for a diffusion model, and the recipe autoencoder" in mistake(autoencoder, "--bins=2")
    assert "--transfer-steps is for a diffusion model" in mistake(autoencoder, "--transfer-steps=2")
    for wrong in ("--bins=0", "--bins=17", "--transfer-steps=-1"):
        assert "--bins at least 1 and at most 16, --transfer-steps at least 0" in mistake(flow, wrong)
    assert "cannot be measured: pictures must be at least 8, got 4" in mistake(flow, "--pictures=4")

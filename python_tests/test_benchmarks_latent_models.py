"""The study of latent models: that the command lines of its parts are understood, and what its reports say."""

from __future__ import annotations

import pytest

from benchmarks import latent_models, latent_models_costs, latent_models_outliers, latent_models_resolution, studies
from visgen_fast import cli
from visgen_fast.data.idx import FASHION_MNIST_FOLDER
from visgen_fast.data.mnist import SHEET
from visgen_fast.training.loop import Trainer

needs_images = pytest.mark.skipif(
    not (FASHION_MNIST_FOLDER.is_dir() and SHEET.exists()),
    reason="needs the Debian packages dataset-fashion-mnist and opencv-doc",
)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """A function from a part's command lines to runs that end before their first step."""
    monkeypatch.setattr(Trainer, "run", Trainer.save)
    monkeypatch.setattr(Trainer, "measured", {}, raising=False)

    def begun(lines):
        for name, words in lines.items():
            assert cli.main(["train", *words, "--device=cpu", f"--out={tmp_path / name}"]) == 0
        return {name: tmp_path / name for name in lines}

    return begun


@needs_images
def test_resolution_compares_networks_and_cascades(runs, tmp_path):
    assert set(latent_models_resolution.trainings(False)) > set(latent_models_resolution.trainings(True))
    part = latent_models_resolution
    entries = part.report(runs(part.trainings(True)), tmp_path, True)
    table = (tmp_path / "table.md").read_text()
    assert {entry["kind"] for entry in entries if "fid" in entry} == set(part.NOISES)
    assert [(entry["kind"], entry["at"]) for entry in entries if "fid" in entry][0] == ("without noise", 0.0)
    alike = [entry["loss"] for entry in entries if "loss" in entry]  # all networks say 0 before training
    assert len(alike) == 3 and max(alike) == pytest.approx(min(alike))
    assert all(f"| {kind} |" in table for kind in (*part.NOISES, "hdit", "latents"))
    assert (tmp_path / "cascades.png").exists()


@needs_images
def test_outliers_asks_each_model_about_the_images_of_the_other(runs, tmp_path):
    part = latent_models_outliers
    entries = part.report(runs(part.trainings(True)), tmp_path, True)
    pairs = [(entry["of"], entry["outside"]) for entry in entries]
    assert pairs[:3] == [("fashion-mnist", "mnist"), ("fashion-mnist", "noise"), ("fashion-mnist", "mirrored")]
    assert ("mnist", "fashion-mnist") in pairs and len(pairs) == 6
    assert all(0 <= entry[measure] <= 1 for entry in entries for measure in part.MEASURES)
    assert "| mnist | fashion-mnist |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "fashion-mnist-mnist" / "outliers.png").exists()


def test_costs_are_least_times_of_both_sides():
    taken = {"hdit": {64: 0.5, 128: 1.0}}
    latent_models_costs._least(taken["hdit"], 128)(0.75)
    latent_models_costs._least(taken["hdit"], 64)(0.75)
    assert taken == {"hdit": {64: 0.5, 128: 0.75}} and latent_models_costs.ratios(taken) == {"hdit": 1.5}


def test_every_part_has_its_file():
    assert {"resolution", "outliers"} < set(latent_models.PARTS)
    files = (studies.ROOT / "benchmarks" / f"latent_models_{part}.py" for part in latent_models.PARTS)
    assert all(file.exists() for file in files)

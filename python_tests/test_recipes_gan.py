"""Recipes dcgan and stylegan: they train, draw, truncate and walk, and refuse in a sentence."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mistakes import mistake
from PIL import Image

import visgen_fast
from visgen_fast import cli
from visgen_fast.data.images import ImageFormat
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.systems.adversarial import GANSystem

TINY = ["--dataset=digits", "--device=cpu", "--batch-size=8", "--steps=3", "--width=4", "--latents=6", "--log-every=1"]
TINY += ["--sample-every=0"]
RUNS = {
    "dcgan": ["--kind=relativistic", "--r1=1", "--r2=1"],
    "dcgan --no-conditional": ["--kind=hinge", "--generator-every=2"],
    "stylegan": ["--mapping-depth=2"],
    "stylegan --no-conditional": ["--kind=minimax", "--mixing=0"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, options in RUNS.items():
        found[name] = folder / name.replace(" ", "")
        assert cli.main(["train", *name.split(), *TINY, *options, f"--out={found[name]}"]) == 0
    return found


def drawn(run: Path, out: Path, *options: str) -> np.ndarray:
    assert cli.main(["sample", str(run), f"--out={out}", "--device=cpu", *options]) == 0
    with Image.open(out) as image:
        return np.asarray(image)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_keeps_both_losses_and_draws(name, runs):
    with (runs[name] / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"loss", "generator_loss", "real_logit", "fake_logit", "penalty"} <= set(rows[0])
    assert all(float(row["loss"]) == float(row["loss"]) for row in rows)
    system = load_system(runs[name])
    assert isinstance(system, GANSystem) and system.conditional != name.endswith("conditional")
    with Image.open(runs[name] / "samples.png") as grid:
        assert grid.height == 4 + 52 * (10 if system.conditional else 4)


@pytest.mark.parametrize("name", RUNS)
def test_drawing_takes_seeds_and_what_a_file_keeps_draws_it_again(name, runs, tmp_path):
    options = ["--count-per-class=3", "--seeds", "1", "2", *(["--truncation=0.5"] if "style" in name else [])]
    first = drawn(runs[name], tmp_path / "a.png", *options)
    assert np.array_equal(drawn(runs[name], tmp_path / "b.png", f"--like={tmp_path / 'a.png'}"), first)
    other = ["--count-per-class=3", "--seeds", "1", "3"]
    assert not np.array_equal(drawn(runs[name], tmp_path / "b.png", *other), first)
    assert first.shape[0] == 4 + 52 * (1 if name.endswith("conditional") else 10)


@pytest.mark.parametrize("name", RUNS)
def test_a_walk_begins_and_ends_with_images(name, runs, tmp_path):
    labels = [] if name.endswith("conditional") else ["--labels=3"]
    pair = drawn(runs[name], tmp_path / "pair.png", *labels, "--count-per-class=2")
    walk = drawn(runs[name], tmp_path / "walk.png", *labels, "--interpolate=4")
    assert walk.shape[1] - pair.shape[1] == 2 * 52
    left = walk.shape[1] - 4 * 52
    assert np.abs(walk[:, left : left + 48].astype(int) - pair[:, left : left + 48]).max() <= 1
    if "stylegan" not in name:  # noise is the first image's on all of the way
        assert np.abs(walk[:, -52:].astype(int) - pair[:, -52:]).max() <= 1
    again = drawn(runs[name], tmp_path / "again.png", f"--like={tmp_path / 'walk.png'}")
    assert np.array_equal(again, walk)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dcgan", ["--truncation=0.5"], "truncation moves styles .* and this model has no mapping network"),
        ("stylegan", ["--truncation=2"], r"truncation must lie in \[0, 1\], got 2.0"),
        ("stylegan", ["--guidance=2"], "guidance is no option of this system, which has truncation"),
        ("dcgan", ["--steps=7"], "steps must be 1"),
        ("dcgan", ["--interpolate=1"], "--interpolate must be at least 2, the two ends, got 1"),
        ("dcgan", ["--interpolate=4", "--count-per-class=3"], "--interpolate and --count-per-class must not be given"),
        ("dcgan", ["--interpolate=4", "--preview-gif=a.gif"], "--interpolate and --preview-gif must not be given"),
        ("dcgan", ["--interpolate=4", "--seeds", "1", "2", "3"], "one --seed, or two that are its ends, got 3"),
        ("dcgan --no-conditional", ["--labels=3"], "--labels must be left out: the model in .* without classes"),
    ],
)
def test_wrong_use_is_one_sentence(name, options, said, runs, tmp_path, capsys):
    printed = mistake(capsys, "sample", runs[name], *options, f"--out={tmp_path / 'x.png'}", "--device=cpu")
    assert re.search(said, printed), printed
    assert not (tmp_path / "x.png").exists()


def test_other_systems_have_no_way_between_two_images_and_no_styles(tmp_path, capsys):
    out = tmp_path / "flow"
    flow = ["train", "rectified-flow", "--dataset=digits", "--device=cpu", "--batch-size=8", "--steps=1"]
    assert cli.main([*flow, "--width=8", "--depth=1", "--heads=1", "--sampling-steps=1", f"--out={out}"]) == 0
    command = ["sample", out, f"--out={tmp_path / 'x.png'}", "--device=cpu"]
    assert "needs a model that makes an image of one latent vector" in mistake(capsys, *command, "--interpolate=3")
    assert "truncation is no option of a diffusion system" in mistake(capsys, *command, "--truncation=0.5")


def test_half_precision_with_a_loss_scale_is_refused(capsys, tmp_path):
    for name in ("dcgan", "stylegan"):
        said = mistake(capsys, "train", name, *TINY, "--mixed-precision=fp16", f"--out={tmp_path}")
        assert "mixed_precision must be no or bf16 for a generator with a discriminator" in said


@pytest.mark.parametrize("name", ["dcgan", "stylegan"])
@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "photographs", "emoji", "some/folder"])
def test_every_preset_fits_the_images_that_it_is_for(name, dataset):
    recipe = load_recipe(name)
    settings = recipe.settings_for(dataset)
    format = ImageFormat(height=settings.size, width=settings.size, channels=3, class_names=("a", "b"))
    with torch.device("meta"):
        system = build(recipe, settings, format)
    assert system.generator.classes == 2 and json.dumps(recipe.preset(dataset))


def test_images_of_a_size_that_cannot_be_halved_are_refused(capsys, tmp_path):
    said = mistake(capsys, "train", "dcgan", *TINY, "--size=9", f"--out={tmp_path}")
    assert "the images' sides must be divisible by 2, and at least 8, got 9×9" in said


def test_two_ranks_play_the_game_of_one(tmp_path):
    """With both penalties, whose gradient of a gradient lies inside what each rank's wrapper calls."""
    game = ["--kind=relativistic", "--r1=1", "--r2=1", "--penalty-every=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    losses = {}
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if ranks > 1 else []
        command = [sys.executable, *launcher, "-m", "visgen_fast", "train", "dcgan", *TINY, *game]
        out = tmp_path / str(ranks)
        finished = subprocess.run(
            [*command, f"--out={out}"], env=environment, capture_output=True, text=True, timeout=600
        )
        assert finished.returncode == 0, finished.stderr
        with (out / "losses.csv").open() as file:
            names = ("loss", "gradient_norm", "generator_loss", "penalty")
            losses[ranks] = [float(row[name]) for row in csv.DictReader(file) for name in names]
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)

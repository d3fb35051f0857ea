"""Recipe latent-diffusion: on any tokenizer or autoencoder of one grid, kept in the checkpoint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from test_recipes_first_stage import SHORT, TOKENIZERS, WIDTHS

from visgen_fast import cli
from visgen_fast.recipes import _latents
from visgen_fast.recipes._latents import OF_ONE_GRID
from visgen_fast.recipes.budget import require_fit
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.systems.generative import draw_samples
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.tokenizers.first_stage import FirstStage
from visgen_fast.training import checkpoint

KINDS = {name: TOKENIZERS.get(name, [*WIDTHS, "--dimensions=4"]) for name in OF_ONE_GRID}
NETWORK = ["--width=8", "--depth=1", "--heads=1", "--sampling-steps=2", "--learning-rate=0.01", "--warmup-steps=0"]
TRAIN = ["train", "latent-diffusion", *SHORT, *NETWORK]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a short run of every kind, and of one whose latents lie on two grids."""
    folder = tmp_path_factory.mktemp("runs")
    classifier = folder / "classifier"
    assert cli.main(["train", "classifier", *SHORT, "--widths", "4", "8", f"--out={classifier}"]) == 0
    own = {"representation-autoencoder": [*WIDTHS, f"--encoder={classifier}"], "vq-vae-2": TOKENIZERS["vq-vae-2"]}
    for name, options in {**KINDS, **own}.items():
        assert cli.main(["train", name, *SHORT, *options, f"--out={folder / name}"]) == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_latents_is_modelled_and_the_first_stage_is_kept(kind, runs, tmp_path):
    stage, out = tmp_path / "stage", tmp_path / "run"
    shutil.copytree(runs / kind, stage)
    before = checkpoint.read(stage).module("tokenizer")
    assert cli.main([*TRAIN, f"--first-stage={stage}", f"--out={out}"]) == 0
    shutil.rmtree(stage)  # the checkpoint keeps it
    system = load_system(out)
    assert isinstance(system, PriorSystem) and isinstance(system.first_stage, FirstStage)
    kept = system.first_stage.reconstructor.state_dict()
    assert kept.keys() == before.keys() and all(torch.equal(kept[name], before[name]) for name in kept)
    # Frozen features are standardised where they are made.
    expected = torch.ones(8) if kind == "representation-autoencoder" else system.first_stage.deviation
    torch.testing.assert_close(system.first_stage.deviation, expected, atol=1e-2, rtol=0)
    assert kind == "representation-autoencoder" or (system.first_stage.deviation != 1).all()
    drawn = draw_samples(system, [3, 4], 2, seed=0, device=CPU)
    torch.testing.assert_close(
        draw_samples(system, [4], 1, seed=0, device=CPU)[0, 0], drawn[1, 0], atol=1e-4, rtol=1e-4
    )
    png = tmp_path / "x.png"
    assert cli.main(["sample", str(out), "--count-per-class=1", f"--out={png}", "--device=cpu", "--steps=3"]) == 0
    assert png.exists()


def test_a_run_goes_on_without_its_first_stage_bit_for_bit(runs, tmp_path):
    stage = tmp_path / "stage"
    shutil.copytree(runs / "rq-vae", stage)
    command = [*TRAIN, f"--first-stage={stage}", "--checkpoint-every=1", "--lr-schedule=constant"]
    assert cli.main([*command, "--steps=4", f"--out={tmp_path / 'straight'}"]) == 0
    assert cli.main([*command, "--steps=2", f"--out={tmp_path / 'resumed'}"]) == 0
    shutil.rmtree(stage)
    assert cli.main([*command, "--steps=4", f"--out={tmp_path / 'resumed'}", "--resume"]) == 0
    ends = [tmp_path / name / "checkpoints" / "step-00000004" for name in ("straight", "resumed")]
    for part in checkpoint.PARTS:
        assert len({(end / f"{part}.safetensors").read_bytes() for end in ends}) == 1


def test_a_run_of_latents_lends_its_first_stage(runs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main([*TRAIN, f"--first-stage={runs / 'fsq'}", f"--out={first}"]) == 0
    assert cli.main([*TRAIN, f"--first-stage={first}", f"--out={second}"]) == 0
    stages = [load_system(run).first_stage for run in (first, second)]
    for name, tensor in stages[0].state_dict().items():
        assert torch.equal(stages[1].state_dict()[name], tensor), name


def test_wrong_use_is_one_sentence(runs, tmp_path, capsys):
    def said(*options: object) -> str:
        return mistake(capsys, *TRAIN, *options, f"--out={tmp_path / 'x'}")

    kinds = "--first-stage must be a run of fsq, lfq, rq-vae, titok, var-tokenizer, vq-vae, autoencoder, "
    kinds += "kl-autoencoder, pyramid-autoencoder or representation-autoencoder"
    assert f"{kinds}, and none was given" in said()
    assert f"{kinds}, but {runs / 'vq-vae-2'} is of vq-vae-2" in said(f"--first-stage={runs / 'vq-vae-2'}")
    assert "must be of images of shape (1, 16, 16)" in said(f"--first-stage={runs / 'fsq'}", "--size=16")
    prior = tmp_path / "prior"
    flow = ["train", "rectified-flow", *SHORT, "--width=8", "--depth=1", "--heads=1", "--sampling-steps=1"]
    assert cli.main([*flow, f"--out={prior}"]) == 0
    assert f"{kinds}, but {prior} is of rectified-flow" in said(f"--first-stage={prior}")
    nothing = mistake(capsys, "train", "mar", "--dataset=digits", f"--cache={tmp_path}", f"--out={tmp_path / 'x'}")
    assert "--cache keeps the latents of a --first-stage, and only --cache" in nothing
    assert "divide" in said(f"--first-stage={runs / 'fsq'}", "--patch-size=3")
    out = tmp_path / "latent"
    assert cli.main([*TRAIN, f"--first-stage={runs / 'fsq'}", f"--out={out}"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(out), "--pictures=16", "--bins=2", "--device=cpu"]) == 0
    assert "error of ε" in capsys.readouterr().out


def test_the_network_is_counted_before_it_is_built(runs):
    recipe = load_recipe("latent-diffusion")
    stage = str(runs / "autoencoder")
    settings = recipe.settings_for("digits", first_stage=stage, width=8, depth=1, heads=1)
    images = checkpoint.read(runs / "autoencoder").images
    system = build(recipe, settings, images)
    require_fit(lambda: build(recipe, settings, images), system.state_dict())


def test_times_are_shifted_by_the_numbers_of_the_latents(runs, monkeypatch):
    def shifts(**chosen: object) -> tuple[float, float | None]:
        recipe = load_recipe("latent-diffusion")
        stage = str(runs / "autoencoder")  # of 4·4·4 numbers
        settings = recipe.settings_for("digits", first_stage=stage, width=8, depth=1, heads=1, **chosen)
        prior = build(recipe, settings, checkpoint.read(runs / "autoencoder").images).prior
        return math.exp(prior.objective.times.mean), prior.options().get("shift")

    assert shifts() == (1, None)
    assert shifts(time_shift=3.0) == (pytest.approx(3), 3)
    monkeypatch.setattr(_latents, "_UNSHIFTED", 16)
    assert shifts() == (pytest.approx(2), 2)

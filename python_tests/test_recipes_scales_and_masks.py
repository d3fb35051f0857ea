"""Recipes that draw several codes at once, and cascades: they train, draw, say their bits, and refuse in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from PIL import Image

from visgen_fast import cli
from visgen_fast.autoregression import Cascade, nll
from visgen_fast.data.images import digits, resized, to_range
from visgen_fast.models import MaskedModel, ScaleModel, SequenceModel
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.cascade import halved
from visgen_fast.training import checkpoint

SHORT = ["--device=cpu", "--dataset=digits", "--steps=2", "--batch-size=8", "--sample-every=0"]
NETWORK = ["--width=8", "--depth=1", "--heads=2"]
TOKENIZER = ["--widths", "4", "--codes=16", "--dimensions=4"]
LABELS, SEEDS = torch.tensor([3, 4]), torch.tensor([0, 1])


def train(recipe: str, out: Path, *options: str) -> Path:
    assert cli.main(["train", recipe, *SHORT, *options, f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with tokenizers of digits at 8 and 4 pixels, and a maskgit and a pixel-gpt at 4."""
    folder = tmp_path_factory.mktemp("runs")
    train("vq-vae", folder / "vq-vae", *TOKENIZER)
    train("var-tokenizer", folder / "var-tokenizer", *TOKENIZER, "--patch-numbers", "1", "2", "4")
    train("vq-vae", folder / "small", *TOKENIZER, "--codes=12", "--size=4")
    train("maskgit", folder / "maskgit-4", *NETWORK, "--size=4", f"--first-stage={folder / 'small'}")
    train("pixel-gpt", folder / "gpt-4", *NETWORK, "--size=4", "--levels=17")
    return folder


def pictures(size: int = 8) -> torch.Tensor:
    return to_range(resized(digits(), size).read(range(6))[0])


def bits_of(run: Path, out: Path, *options: str) -> dict:
    assert cli.main(["evaluate", str(run), "--device=cpu", "--pictures=4", *options, f"--out={out}"]) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_var_draws_scale_by_scale(runs, tmp_path):
    out = train("var", tmp_path / "run", *NETWORK, f"--first-stage={runs / 'var-tokenizer'}")
    system = load_system(out)
    assert isinstance(system.model, ScaleModel) and system.options()["steps"] == 3
    kept, own = system.model.quantizer.state_dict(), system.tokenizer.quantizer.state_dict()
    assert all(torch.equal(kept[name], own[name]) for name in own)
    steps = []
    drawn = system.sample(LABELS, SEEDS, guidance=2.0, callback=lambda step, *_: steps.append(step))
    assert drawn.shape == (2, 1, 8, 8) and steps == [0, 1, 2]
    found = bits_of(out, tmp_path)
    assert len(found["by_step"]) == 3 and len(found["by_position"]) == 21 and found["bits_per_dim"] is None


def test_maskgit_draws_in_as_many_steps_as_asked_for(runs, tmp_path):
    out = train("maskgit", tmp_path / "run", *NETWORK, "--sampling-steps=3", f"--first-stage={runs / 'vq-vae'}")
    system, steps = load_system(out), []
    assert isinstance(system.model, MaskedModel) and system.options()["steps"] == 3
    system.sample(LABELS, SEEDS, steps=5, callback=lambda step, *_: steps.append(step))
    assert steps == [0, 1, 2, 3, 4]
    found = bits_of(out, tmp_path)
    codes, labels = system.tokenizer.encode(pictures()), digits().labels[:6]
    assert torch.tensor(found["by_position"]).shape == codes.shape[1:3] and len(found["by_step"]) == 16
    known = system.given(pictures()[:2], 0.5)
    drawn = system.draw_latents(LABELS, SEEDS, known=known)
    assert torch.equal(drawn[:, :2], codes[:2, :2])
    assert nll(system.model, codes, labels, stepwise=True).shape == codes.shape


@pytest.fixture(scope="module")
def muse(runs, tmp_path_factory) -> Path:
    """A muse whose other runs are gone."""
    folder = tmp_path_factory.mktemp("muse")
    for name in ("vq-vae", "maskgit-4"):
        shutil.copytree(runs / name, folder / name)
    options = [f"--first-stage={folder / 'vq-vae'}", f"--coarse={folder / 'maskgit-4'}", "--sampling-steps=3"]
    out = train("muse", folder / "run", *NETWORK, *options)
    for name in ("vq-vae", "maskgit-4"):
        shutil.rmtree(folder / name)
    return out


def test_muse_draws_low_and_then_high_from_one_checkpoint(muse, runs, tmp_path):
    system, coarse = load_system(muse), load_system(runs / "maskgit-4")
    own = system.coarse.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in coarse.state_dict().items())
    codes = system.draw_latents(LABELS, SEEDS)
    assert codes.shape == (2, 4 + 16, 1) and codes.min() >= 0 and codes[:, :4].max() < 12
    assert torch.equal(system.codec.decode(codes), system.sample(LABELS, SEEDS))
    assert cli.main(["sample", str(muse), "--labels=3", "--count-per-class=1", f"--out={tmp_path / 'x.png'}"]) == 0
    found = bits_of(muse, tmp_path)
    assert len(found["by_position"]) == 20 and len(found["by_step"]) == 20


def test_the_coarse_model_inside_is_a_checkpoint_like_any_other(muse, runs, tmp_path, capsys):
    inside = load_system(muse / "coarse")
    assert torch.equal(inside.sample(LABELS, SEEDS), load_system(runs / "maskgit-4").sample(LABELS, SEEDS))
    assert cli.main(["sample", str(muse / "coarse"), "--labels=3", f"--out={tmp_path / 'x.png'}"]) == 0
    with Image.open(tmp_path / "x.png"):
        pass
    said = mistake(capsys, "sample", muse / "fine", f"--out={tmp_path / 'x.png'}")
    assert f"{muse / 'fine'} holds no checkpoint of visgen-fast" in said


def test_codes_given_to_muse_stay_at_both_sizes(muse):
    system = load_system(muse)
    known = system.given(pictures()[:2], 0.5)
    assert (known[:, :4] >= 0).sum() == 2 * 2 and (known[:, 4:] >= 0).sum() == 2 * 8
    codes = system.draw_latents(LABELS, SEEDS, known=known)
    assert torch.equal(torch.where(known < 0, codes, known), codes)


def test_a_muse_lends_its_parts_and_goes_on_bit_for_bit(muse, tmp_path):
    options = [*NETWORK, f"--first-stage={muse}", f"--coarse={muse}", "--sampling-steps=3"]
    out = train("muse", tmp_path / "run", *options, "--steps=1")
    train("muse", out, *options, "--resume")
    whole, parts = (checkpoint.read(path) for path in (muse, out))
    first, second = whole.tensors("weights"), parts.tensors("weights")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert not any(name.startswith(("coarse.", "first_stage.")) for name in first)
    assert whole.state["frozen"] == parts.state["frozen"]  # by their hashes


def test_a_cascade_draws_pixels_after_coarse_pixels_in_any_order(runs, tmp_path):
    options = [f"--coarse={runs / 'gpt-4'}", "--order=snake"]
    out = train("cascade", tmp_path / "run", *NETWORK, *options)
    system = load_system(out)
    assert isinstance(system.model, SequenceModel) and isinstance(system.measured, Cascade)
    codes = system.codec.encode(pictures())
    coarse, fine = codes.split([16, 64], 1)
    assert torch.equal(system.codec.decode(codes), pictures())
    assert torch.equal(system.tokenizer.encode(pictures()).flatten(1, 2), fine)
    assert torch.equal(system.coarse.tokenizer.encode(halved(pictures())).flatten(1, 2), coarse)
    labels = digits().labels[:6]
    with torch.no_grad():
        whole = nll(system.measured, codes, labels)
        low = nll(system.coarse.model, coarse.unflatten(1, (4, 4)), labels)
        high = nll(system.model, codes, labels)[:, 16:]
    torch.testing.assert_close(whole, torch.cat((low.flatten(1, 2), high), 1))
    assert torch.equal(system.code_loss(pictures(), labels, labels), high.flatten(1).mean(1))
    drawn = system.draw_latents(LABELS, SEEDS)
    assert torch.equal(system.sample(LABELS, SEEDS), system.codec.decode(drawn))
    assert bits_of(out, tmp_path)["bits_per_dim"] > 0  # of all codes, those of the coarse image included


def test_what_is_halved_is_what_a_data_set_of_half_the_size_has():
    assert (halved(pictures(8)) - pictures(4)).abs().max() <= 1.01 / 127.5


def test_a_coarse_run_of_another_kind_size_or_codes_gets_a_sentence(runs, tmp_path, capsys):
    def said(recipe, *options):
        stage = f"--first-stage={runs / 'vq-vae'}"
        return mistake(capsys, "train", recipe, *SHORT, *NETWORK, stage, *options, f"--out={tmp_path / 'run'}")

    assert "--coarse must be a run of maskgit, and none was given" in said("muse")
    assert f"--coarse must be a run of maskgit, but {runs / 'gpt-4'} is of pixel-gpt" in said(
        "muse", f"--coarse={runs / 'gpt-4'}"
    )
    assert f"--coarse: {tmp_path} holds no checkpoint" in said("muse", f"--coarse={tmp_path}")
    full = train("maskgit", tmp_path / "full", *NETWORK, f"--first-stage={runs / 'vq-vae'}")
    half = "--coarse must be of images of half the size of (1, 8, 8)"
    assert f"{half}, but {full} is of (1, 8, 8)" in said("muse", f"--coarse={full}")
    fewer = f"--coarse must have 1 codes at a place, of at most 16 values, but {runs / 'gpt-4'} has 1 of 17"
    assert fewer in said("cascade", f"--coarse={runs / 'gpt-4'}")
    state = next((runs / "maskgit-4").glob("checkpoints/*/state.json"))
    other = tmp_path / "other"
    shutil.copytree(runs / "maskgit-4", other)
    content = json.loads(state.read_text())
    content["images"]["class_names"] = [f"class {name}" for name in content["images"]["class_names"]]
    next(other.glob("checkpoints/*/state.json")).write_text(json.dumps(content))
    assert "--coarse must be of images of the same classes" in said("muse", f"--coarse={other}")
    assert not (tmp_path / "run").exists()


def test_var_takes_var_s_tokenizer_alone(runs, tmp_path, capsys):
    command = ["train", "var", *SHORT, *NETWORK, f"--first-stage={runs / 'vq-vae'}", f"--out={tmp_path / 'run'}"]
    assert "--first-stage must be a run of var-tokenizer, but" in mistake(capsys, *command)


@pytest.mark.parametrize("latents", [False, True], ids=["pixels", "latents"])
def test_mar_draws_patches_of_pixels_or_latents_and_has_no_likelihood(latents, runs, tmp_path, capsys):
    options = [f"--first-stage={runs / 'vq-vae'}", "--patch-size=1"] if latents else []
    small = [*NETWORK, "--flow-width=8", "--flow-depth=1", "--sampling-steps=2", "--flow-steps=2"]
    out = train("mar", tmp_path / "run", *small, *options)
    system = load_system(out)
    drawn = system.sample(LABELS, SEEDS)
    assert drawn.shape == (2, 1, 8, 8)
    torch.testing.assert_close(system.sample(LABELS[1:], SEEDS[1:]), drawn[1:], rtol=1e-4, atol=1e-4)
    asked = ["sample", str(out), "--labels=3", "--count-per-class=1", "--steps=3", "--temperature=0.9"]
    assert cli.main([*asked, f"--out={tmp_path / 'x.png'}"]) == 0
    said = mistake(capsys, "evaluate", out, "--device=cpu", f"--out={tmp_path}")
    assert "the recipe mar trains a model without an exact likelihood to measure: give --features" in said

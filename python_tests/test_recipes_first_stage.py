"""Models of a tokenizer's codes: any kind of tokenizer below them, kept in the checkpoint, and no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from torch.nn import functional as F

from visgen_fast import cli, ops
from visgen_fast.autoregression import nll
from visgen_fast.data.images import ImageFormat, to_range
from visgen_fast.errors import UserError
from visgen_fast.models import SequenceModel, SpaceDepthModel
from visgen_fast.recipes._first_stage import KINDS
from visgen_fast.recipes.budget import require_fit
from visgen_fast.recipes.registry import load_recipe, recipe_names
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.systems.tokenizer import TokenizerSystem
from visgen_fast.tokenizers import Tokenizer
from visgen_fast.tokenizers.soft_codes import soft_codes
from visgen_fast.training import checkpoint

SHORT = ["--device=cpu", "--dataset=digits", "--steps=2", "--batch-size=8", "--sample-every=0"]
WIDTHS = ["--widths", "4"]
TOKENIZERS = {
    "vq-vae": [*WIDTHS, "--codes=16", "--dimensions=4"],
    "rq-vae": [*WIDTHS, "--codes=16", "--dimensions=4", "--depth=3"],
    "vq-vae-2": [*WIDTHS, "--codes=16", "--dimensions=4", "--blocks=0"],
    "titok": ["--codes=16", "--dimensions=4", "--tokens=5", "--width=8", "--depth=1", "--heads=1"],
    "fsq": [*WIDTHS, "--levels", "3", "3"],
    "lfq": [*WIDTHS, "--bits=4"],
    "var-tokenizer": [*WIDTHS, "--codes=16", "--dimensions=4", "--patch-numbers", "1", "2", "4"],
}
SHAPES = {
    **dict.fromkeys(("vq-vae", "fsq", "lfq"), (4, 4, 1)),
    **{"rq-vae": (4, 4, 3), "vq-vae-2": (20, 1), "titok": (5, 1), "var-tokenizer": (21, 1)},
}
NETWORK = ["--width=8", "--depth=1", "--heads=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a short run of every tokenizer, and of an autoencoder."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {**TOKENIZERS, "autoencoder": [*WIDTHS, "--dimensions=4"]}.items():
        assert cli.main(["train", name, *SHORT, *options, f"--out={folder / name}"]) == 0
    return folder


def test_the_kinds_are_the_recipes_of_tokenizers():
    images = ImageFormat(height=32, width=32, channels=3, class_names=("a", "b"))
    with_codes = set()
    for name in recipe_names():
        recipe = load_recipe(name)
        if not {"first_stage", "encoder", "teacher"} & {*recipe.settings.OTHER_RUNS}:
            settings = recipe.settings()
            with torch.device("meta"):
                system = recipe.system(settings, replace(images, frames=getattr(settings, "frames", None)))
            if isinstance(system, TokenizerSystem) and isinstance(system.tokenizer, Tokenizer):
                with_codes.add(name)
    assert with_codes == set(KINDS) == set(TOKENIZERS)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_codes_of_every_kind_are_modelled_and_the_first_stage_is_kept(kind, runs, tmp_path):
    stage, out = tmp_path / "stage", tmp_path / "run"
    shutil.copytree(runs / kind, stage)
    assert cli.main(["train", "token-gpt", *SHORT, *NETWORK, f"--first-stage={stage}", f"--out={out}"]) == 0
    shutil.rmtree(stage)  # the checkpoint keeps it
    system, trained = load_system(out), load_system(runs / kind).tokenizer
    assert isinstance(system.model, SequenceModel) and system.model.order.shape == SHAPES[kind]
    assert system.model.size == trained.quantizer.size and system.model.null_label == 10
    kept, former = system.tokenizer.state_dict(), trained.state_dict()
    assert kept.keys() == former.keys() and all(torch.equal(kept[name], former[name]) for name in kept)
    assert not system.tokenizer.training
    images = to_range(load_recipe(kind).settings_for("digits").images.read(range(4))[0])
    assert torch.equal(system.tokenizer.encode(images), trained.encode(images))
    drawn = system.sample(torch.tensor([3, 4]), torch.tensor([0, 1]), guidance=2.0)
    assert drawn.shape == (2, 1, 8, 8)
    assert cli.main(["sample", str(out), "--labels=3", "--count-per-class=1", f"--out={tmp_path / 'x.png'}"]) == 0
    assert cli.main(["evaluate", str(out), "--device=cpu", f"--out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["bits_per_dim"] is None and len(found["by_depth"]) == SHAPES[kind][-1]
    assert torch.tensor(found["by_position"]).shape == SHAPES[kind][:-1]


def test_a_run_goes_on_without_the_first_stage_s_run_bit_for_bit(runs, tmp_path):
    stage = tmp_path / "stage"
    shutil.copytree(runs / "rq-vae", stage)
    command = ["train", "rq-transformer", *SHORT, *NETWORK, f"--first-stage={stage}", "--checkpoint-every=1"]
    assert cli.main([*command, "--steps=3", f"--out={tmp_path / 'whole'}"]) == 0
    assert cli.main([*command, "--steps=1", f"--out={tmp_path / 'parts'}"]) == 0
    shutil.rmtree(stage)
    assert cli.main([*command, "--steps=3", "--resume", f"--out={tmp_path / 'parts'}"]) == 0
    whole, parts = (checkpoint.read(tmp_path / name).tensors("weights") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_prior_lends_its_first_stage(runs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main(["train", "token-gpt", *SHORT, *NETWORK, f"--first-stage={runs / 'vq-vae'}", f"--out={first}"]) == 0
    assert cli.main(["train", "token-gpt", *SHORT, *NETWORK, f"--first-stage={first}", f"--out={second}"]) == 0
    one, other = (load_system(run).tokenizer.state_dict() for run in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_lower_half_of_a_grid_is_drawn_and_codes_without_places_are_refused(runs, tmp_path, capsys):
    for kind, rows in (("vq-vae-2", [2 * 2 // 2, 4 * 4 // 2]), ("var-tokenizer", [0, 2, 8])):
        out = tmp_path / kind
        assert cli.main(["train", "token-gpt", *SHORT, *NETWORK, f"--first-stage={runs / kind}", f"--out={out}"]) == 0
        system = load_system(out)
        known = system.given(torch.zeros(2, 1, 8, 8), 0.5)
        lengths = [rows_ * columns for rows_, columns in system.grids]
        assert [int((part >= 0).sum()) for part in known[0, :, 0].split(lengths)] == rows
    out = tmp_path / "titok"
    assert cli.main(["train", "token-gpt", *SHORT, *NETWORK, f"--first-stage={runs / 'titok'}", f"--out={out}"]) == 0
    said = mistake(capsys, "sample", out, "--complete=0.5", "--labels=3", f"--out={tmp_path / 'x.png'}")
    assert "complete needs codes with places in the image, and those of this tokenizer have none" in said


@pytest.mark.parametrize("options", [[], ["--soft-targets=0.5"], ["--soft-targets=0.5", "--stochastic-codes"]], ids=str)
def test_an_rq_transformer_trains_with_any_targets(options, runs, tmp_path):
    out = tmp_path / "run"
    command = ["train", "rq-transformer", *SHORT, *NETWORK, f"--first-stage={runs / 'rq-vae'}", f"--out={out}"]
    assert cli.main([*command, *options]) == 0
    system = load_system(out)
    assert isinstance(system.model, SpaceDepthModel) and system.model.order.shape == (4, 4, 3)
    assert system.sample(torch.tensor([3]), torch.tensor([0])).shape == (1, 1, 8, 8)


def test_soft_targets_at_a_low_temperature_are_the_codes(runs):
    recipe = load_recipe("rq-transformer")
    settings = {"width": 8, "depth": 1, "heads": 2, "dropout": 0.0, "first_stage": str(runs / "rq-vae")}
    images = recipe.settings_for("digits").images
    torch.manual_seed(0)
    soft = build(recipe, recipe.settings_for("digits", **settings, soft_targets=1e-9), images.format).eval()
    pixels, labels, _ = images.read(range(6))
    pixels, seeds = to_range(pixels), ops.derive_seeds(0, torch.arange(6))
    expected = nll(soft.model, soft.tokenizer.encode(pixels), labels).flatten(1).mean(1)
    torch.testing.assert_close(soft.code_loss(pixels, labels, seeds), expected, rtol=1e-4, atol=1e-4)
    soft.temperature = 1e9  # where all codes are as good
    torch.testing.assert_close(
        soft.code_loss(pixels, labels, seeds),
        -soft.model(soft.tokenizer.encode(pixels), labels).log_softmax(-1).mean(-1).flatten(1).mean(1),
        rtol=1e-4,
        atol=1e-4,
    )


def test_soft_codes_are_distributions_over_distances_and_are_drawn_from_them():
    generator = torch.Generator().manual_seed(0)
    x, books = torch.randn(2000, 1, 3, generator=generator), torch.randn(2, 5, 3, generator=generator)
    x[:] = x[:1]
    seeds = ops.derive_seeds(0, torch.arange(2000))
    codes, probabilities = soft_codes(x, books, depth=2, temperature=0.7, seeds=seeds)
    distance = (x[0, 0] - books[0]).double().square().sum(-1)
    torch.testing.assert_close(probabilities[0, 0, 0].double(), (-distance / 0.7).softmax(0), rtol=1e-4, atol=1e-6)
    counts = codes[:, 0, 0].bincount(minlength=5) / 2000
    assert (counts - probabilities[0, 0, 0]).abs().max() < 0.06
    after = (x[:, 0] - books[0][codes[:, 0, 0]])[:, None] - books[1]  # the second depth knows the first one's draw
    expected = (-after.double().square().sum(-1) / 0.7).softmax(-1)
    torch.testing.assert_close(probabilities[:, 0, 1].double(), expected, rtol=1e-4, atol=1e-6)
    nearest, _ = soft_codes(x, books, depth=2, temperature=0.7)
    assert torch.equal(nearest, ops.residual_quantize(x, books)[1])
    alone, _ = soft_codes(x[7:8], books, depth=2, temperature=0.7, seeds=seeds[7:8])
    assert torch.equal(alone[0], codes[7])
    assert F.one_hot(nearest, 5).shape == probabilities.shape


def test_a_first_stage_of_another_kind_or_size_gets_a_sentence(runs, tmp_path, capsys):
    def said(recipe, *options):
        return mistake(capsys, "train", recipe, *SHORT, *NETWORK, *options, f"--out={tmp_path / 'run'}")

    kinds = "--first-stage must be a run of fsq, lfq, rq-vae, titok, var-tokenizer, vq-vae or vq-vae-2"
    assert f"{kinds}, and none was given" in said("token-gpt")
    assert f"{kinds}, but {runs / 'autoencoder'} is of autoencoder" in said(
        "token-gpt", f"--first-stage={runs / 'autoencoder'}"
    )
    assert f"--first-stage must be a run of rq-vae, but {runs / 'vq-vae'} is of vq-vae" in said(
        "rq-transformer", f"--first-stage={runs / 'vq-vae'}"
    )
    assert f"--first-stage: {tmp_path} holds no checkpoint" in said("token-gpt", f"--first-stage={tmp_path}")
    other = said("token-gpt", f"--first-stage={runs / 'fsq'}", "--size=16")
    assert f"--first-stage must be of images of shape (1, 16, 16), but {runs / 'fsq'} is of (1, 8, 8)" in other
    assert "stochastic_codes needs soft_targets above 0" in said(
        "rq-transformer", f"--first-stage={runs / 'rq-vae'}", "--stochastic-codes"
    )
    flat = tmp_path / "flat"
    assert cli.main(["train", "rq-vae", *SHORT, *WIDTHS, "--codes=16", "--depth=1", f"--out={flat}"]) == 0
    one = said("rq-transformer", f"--first-stage={flat}")
    assert f"--first-stage must have several codes at a place, but {flat} has one: token-gpt models it" in one
    many = tmp_path / "many"
    assert cli.main(["train", "lfq", *SHORT, *WIDTHS, "--bits=20", "--entropy=0", f"--out={many}"]) == 0
    large = said("token-gpt", f"--first-stage={many}")
    assert f"--first-stage must have codes of at most 262144 values, but {many} has 1048576" in large
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["token-gpt", "rq-transformer"])
def test_the_network_with_its_first_stage_is_counted_without_being_built(name, runs):
    recipe = load_recipe(name)
    settings = recipe.settings_for("digits", first_stage=str(runs / "rq-vae"))
    images = settings.images.format
    weights = recipe.system(settings, images).state_dict()
    require_fit(lambda: recipe.system(settings, images), weights)
    wide = recipe.settings_for("digits", first_stage=str(runs / "rq-vae"), width=2**14, heads=1)
    with pytest.raises(UserError, match="far larger network"):
        require_fit(lambda: recipe.system(wide, images), weights)


def test_a_checkpoint_that_remembers_nonsense_is_damaged(runs, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "token-gpt", *SHORT, *NETWORK, f"--first-stage={runs / 'vq-vae'}", f"--out={out}"]
    assert cli.main(command) == 0
    state = next(out.glob("checkpoints/*/state.json"))
    content = json.loads(state.read_text())
    for remembered in ({"first_stage": 3}, {"first_stage": {"recipe": "vq-vae"}}, {"first_stage": {"settings": {}}}):
        state.write_text(json.dumps({**content, "remembered": remembered}))
        assert "describes no first stage" in mistake(capsys, "sample", out, f"--out={tmp_path / 'x.png'}")
    nested = {"recipe": "token-gpt", "settings": content["settings"]}
    state.write_text(json.dumps({**content, "remembered": {"first_stage": nested}}))
    assert "is of token-gpt" in mistake(capsys, "sample", out, f"--out={tmp_path / 'x.png'}")
    wide = {"recipe": "vq-vae", "settings": {**content["remembered"]["first_stage"]["settings"], "widths": [10**6]}}
    state.write_text(json.dumps({**content, "remembered": {"first_stage": wide}}))
    assert "far larger network" in mistake(capsys, "sample", out, f"--out={tmp_path / 'x.png'}")

"""Recipes of normalizing flows: they train, say their bits, draw, and refuse in a sentence."""

import json
from pathlib import Path

import pytest
import torch
from mistakes import mistake

from visgen_fast import cli, ops
from visgen_fast.data.images import to_range
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.flow import FlowSystem

SHORT = ["--device=cpu", "--batch-size=16", "--steps=4", "--width=12", "--depth=1", "--sample-every=0"]
RUNS = {"real-nvp": [], "tar-flow": ["--heads=2", "--blocks=2"], "tar-flow --noise=0": ["--heads=2", "--blocks=2"]}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "flow"
    assert cli.main(["train", *request.param.split(), *SHORT, *RUNS[request.param], f"--out={out}"]) == 0
    return out


def test_the_metrics_are_the_bits_of_the_held_out_images(run):
    system, recipe = load_system(run), load_recipe(json.loads((run / "settings.json").read_text())["recipe"])
    held_out = recipe.held_out(recipe.settings_for("digits"))
    pixels, labels, _ = held_out.read(range(len(held_out)))
    seeds = ops.derive_seeds(0, torch.arange(len(held_out)), purpose=ops.Purpose.LIKELIHOOD)
    noised = system.dequantization.noised(to_range(pixels), seeds)
    with torch.no_grad():
        likelihood = system.flow.log_likelihood(noised, labels)
    bits = system.dequantization.bits(noised, to_range(pixels), likelihood).mean().item()
    found = json.loads((run / "metrics.json").read_text())
    assert found["bits_per_image"] == pytest.approx(bits, rel=1e-4)
    assert found["bits_per_dim"] == pytest.approx(bits / 64, rel=1e-4)


def test_an_image_has_the_levels_of_digits_and_is_the_same_alone_and_in_a_batch(run):
    system = load_system(run)
    assert isinstance(system, FlowSystem)
    labels, seeds = torch.arange(5), ops.derive_seeds(0, torch.arange(5))
    drawn = system.sample(labels, seeds, temperature=0.5)
    assert drawn.shape == (5, 1, 8, 8) and system.dequantization.loses_nothing(drawn)
    assert torch.equal(system.sample(labels[2:3], seeds[2:3], temperature=0.5)[0], drawn[2])


def test_the_command_line_draws_and_measures(run, tmp_path, capsys):
    options = ["--labels", "3", "--count-per-class=2", "--temperature=0.7", "--device=cpu"]
    assert cli.main(["sample", str(run), *options, f"--out={tmp_path / 'a.png'}"]) == 0
    assert cli.main(["evaluate", str(run), "--pictures=9", "--device=cpu", f"--out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["held_out"] and found["images"] == 9 and found["measures"]["bits_per_dim"] > 0
    assert "bits per dim: " in capsys.readouterr().out
    assert "beam is for a tokenizer" in mistake(capsys, "evaluate", run, "--beam=2").replace("--", "")


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--steps=3"], "steps must be 1 for a normalizing flow, which draws in one go, got 3"),
        (["--top-k=3"], "top_k is no option of a normalizing flow, which has guidance, temperature"),
        (["--temperature=-1"], "temperature must be at least 0, got -1.0"),
    ],
)
def test_an_option_that_does_not_fit_gets_a_sentence(options, sentence, run, capsys, tmp_path):
    assert sentence in mistake(capsys, "sample", run, *options, "--device=cpu", f"--out={tmp_path / 'a.png'}")


def test_guidance_is_only_of_what_can_be_guided(tmp_path, capsys):
    for name, sentence in (
        ("real-nvp", "guidance must be 1 for RealNVP, which has none, got 2.0"),
        ("tar-flow --label-drop=0", "guidance must be 1 for a model that was trained with label_drop 0, got 2.0"),
    ):
        out = tmp_path / name
        assert cli.main(["train", *name.split(), *SHORT, *RUNS[name.split()[0]], "--steps=1", f"--out={out}"]) == 0
        assert sentence in mistake(capsys, "sample", out, "--guidance=2", "--device=cpu", f"--out={out / 'a.png'}")

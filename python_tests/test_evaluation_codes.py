"""A model of codes is measured: how many bits, where in images and orders they go, and how far drawn images are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from code_models import BLOCKS, awake, sequence
from PIL import Image

from visgen_fast import cli
from visgen_fast.autoregression import columns, nll, snake
from visgen_fast.data.images import to_range
from visgen_fast.evaluation import evaluate_codes
from visgen_fast.models import SpaceDepthModel
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import load_system
from visgen_fast.tokenizers import PixelCodes


def pictures(size: int, channels: int, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator) / 127.5 - 1


def test_bits_go_to_their_places_depths_and_steps():
    pixels = PixelCodes(3, 1, levels=4, layout="planes")  # two planes
    model = awake(lambda: sequence(snake((3, 3, 2)), 2))
    images = pixels.decode(pixels.encode(pictures(3, 1)))
    found = evaluate_codes(model, pixels, [(images[:4], None), (images[4:], None)])
    with torch.no_grad():
        bits = nll(model, pixels.encode(images)).mean(0) / math.log(2)
    assert found.images == 6 and found.bits_per_image == pytest.approx(float(bits.sum()))
    assert found.bits_per_code == pytest.approx(float(bits.mean()))
    torch.testing.assert_close(found.by_position, bits.sum(-1))
    torch.testing.assert_close(found.by_depth, bits.mean((0, 1)))
    torch.testing.assert_close(found.by_step, model.order.to_sequence(bits[None])[0])


def test_bits_per_dimension_are_there_where_nothing_is_lost():
    model = awake(lambda: sequence(columns((2, 2, 3)), 16))
    rough = PixelCodes(2, 3, levels=16)
    images = rough.decode(rough.encode(pictures(2, 3)))
    found = evaluate_codes(model, rough, [(images, None)])
    assert found.bits_per_dim == pytest.approx(found.bits_per_image / 12)
    assert evaluate_codes(model, rough, [(pictures(2, 3), None)]).bits_per_dim is None


def test_stepwise_measures_are_those_of_one_pass():
    pixels = PixelCodes(2, 3, levels=8)
    model = awake(lambda: SpaceDepthModel((2, 2), 3, 8, inner_depth=1, **BLOCKS))
    one, steps = (
        evaluate_codes(model, pixels, [(pictures(2, 3), None)], stepwise=stepwise) for stepwise in (False, True)
    )
    torch.testing.assert_close(one.by_step, steps.by_step, rtol=0, atol=1e-9)


def test_no_image_gets_a_sentence():
    with pytest.raises(ValueError, match="batches must hold at least one image"):
        evaluate_codes(awake(lambda: sequence(columns((2, 2, 3)), 16)), PixelCodes(2, 3), [])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with short runs of a pixel-gpt of tiles and of a classifier on digits."""
    folder = tmp_path_factory.mktemp("runs")
    short = ["--device=cpu", "--dataset=digits", "--steps=4", "--batch-size=16"]
    network = ["--width=16", "--depth=1", "--heads=2", "--layout=tiles", "--sample-every=0"]
    assert cli.main(["train", "pixel-gpt", *short, *network, f"--out={folder / 'gpt'}"]) == 0
    assert cli.main(["train", "classifier", *short, f"--out={folder / 'classifier'}"]) == 0
    return folder


def test_evaluate_writes_the_measures_and_the_maps(runs, tmp_path, capsys):
    assert cli.main(["evaluate", str(runs / "gpt"), "--device=cpu", f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "bits per dim:" in printed and "images: 180 held out" in printed and f"written to {tmp_path}" in printed
    found = json.loads((tmp_path / "evaluation.json").read_text())
    metrics = json.loads((runs / "gpt" / "metrics.json").read_text())
    for name in ("bits_per_code", "bits_per_image", "bits_per_dim"):
        assert found[name] == pytest.approx(metrics[name], rel=1e-6)
    assert (found["recipe"], found["step"], found["held_out"], found["fid"]) == ("pixel-gpt", 4, True, None)
    by_position = torch.tensor(found["by_position"], dtype=torch.float64)
    assert by_position.shape == (2, 2) and len(found["by_depth"]) == 16 and len(found["by_step"]) == 64
    assert float(by_position.sum()) == pytest.approx(found["bits_per_image"])
    assert sum(found["by_step"]) == pytest.approx(found["bits_per_image"])
    with Image.open(tmp_path / "bits.png") as figure:
        assert min(figure.size) > 300


def test_features_give_the_distance_of_drawn_images_beside_the_tokenizers(runs, tmp_path, capsys):
    options = ["--pictures=40", f"--features={runs / 'classifier'}", "--device=cpu", f"--out={tmp_path}"]
    assert cli.main(["evaluate", str(runs / "gpt"), *options]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["rfid"] < 1e-6 < 1e-3 < found["fid"]  # pixels of 17 levels lose nothing
    assert found["images"] == 40 and "fid:" in capsys.readouterr().out


def test_options_of_others_get_a_sentence(runs, tmp_path, capsys):
    for option, kind in {"--beam=2": "tokenizer", "--bins=2": "diffusion model"}.items():
        assert cli.main(["evaluate", str(runs / "gpt"), option, "--device=cpu", f"--out={tmp_path}"]) == 2
        name = option.partition("=")[0]
        assert f"{name} is for a {kind}, and the recipe pixel-gpt trains none" in capsys.readouterr().err


def test_a_model_that_never_saw_a_label_is_told_none(tmp_path):
    out = tmp_path / "run"
    options = ["--device=cpu", "--steps=2", "--batch-size=8", "--width=12", "--depth=1", "--sample-every=0"]
    assert cli.main(["train", "pixel-cnn", *options, "--label-drop=1", f"--out={out}"]) == 0
    system, recipe = load_system(out), load_recipe("pixel-cnn")
    held_out = recipe.held_out(recipe.settings_for("digits"))
    images = to_range(held_out.read(range(len(held_out)))[0])
    with torch.no_grad():
        codes = system.tokenizer.encode(images)
        bits = nll(system.model, codes, torch.full((len(images),), 10)).flatten(1).sum(1).mean() / math.log(2)
    assert system.measure(held_out, device=torch.device("cpu")).bits_per_image == pytest.approx(float(bits), rel=1e-5)

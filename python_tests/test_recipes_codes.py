"""Recipes of models of codes: they train, draw, say their bits, and refuse in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from PIL import Image

from visgen_fast import cli, ops
from visgen_fast.autoregression import nll, raster
from visgen_fast.autoregression.prior import CodePrior, CodeSampling
from visgen_fast.data.images import ImageFormat, digits, to_range
from visgen_fast.errors import UserError
from visgen_fast.models import SequenceModel
from visgen_fast.nn.class_condition import Labels
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.systems.codes import CodeSystem
from visgen_fast.tokenizers import PixelCodes
from visgen_fast.tokenizers.code_stage import CodeStage
from visgen_fast.tokenizers.places import outside

SHORT = ["--device=cpu", "--batch-size=16", "--steps=4", "--width=12", "--depth=1", "--sample-every=0"]
RUNS = {
    "pixel-cnn": [],
    "pixel-rnn": [],
    "pixel-gpt": ["--heads=2", "--order=snake"],
    "pixel-gpt --layout=planes": ["--heads=2", "--levels=4", "--order=planes"],
    "pixel-gpt --layout=tiles": ["--heads=2", "--order=shuffled"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A pixel-gpt that has begun to learn the digits."""
    out = tmp_path_factory.mktemp("runs") / "gpt"
    options = ["--width=32", "--depth=1", "--heads=2", "--steps=60", "--batch-size=32", "--warmup-steps=5"]
    assert cli.main(["train", "pixel-gpt", "--device=cpu", *options, "--sample-every=0", f"--out={out}"]) == 0
    return out


def pixels_of(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_trains_and_its_run_draws(name, tmp_path):
    out = tmp_path / "run"
    assert cli.main(["train", *name.split(), *SHORT, *RUNS[name], f"--out={out}"]) == 0
    bits = json.loads((out / "metrics.json").read_text())
    system = load_system(out)
    assert isinstance(system, CodeSystem)
    assert bits["bits_per_image"] == pytest.approx(bits["bits_per_code"] * system.model.order.length)
    assert ("bits_per_dim" in bits) == (system.tokenizer.levels == 17)  # four levels lose something
    drawn = system.sample(torch.tensor([3, 4]), torch.tensor([0, 1]), temperature=0.5)
    codes = system.tokenizer.encode(drawn)
    assert drawn.shape == (2, 1, 8, 8) and torch.equal(system.tokenizer.decode(codes), drawn)


def test_the_metrics_are_the_bits_of_the_held_out_images(run):
    system, recipe = load_system(run), load_recipe("pixel-gpt")
    held_out = recipe.held_out(recipe.settings_for("digits"))
    pixels, labels, _ = held_out.read(range(len(held_out)))
    images = to_range(pixels)
    codes = system.tokenizer.encode(images)
    assert torch.equal(system.tokenizer.decode(codes), images)  # so that bits per dimension are those of the pixels
    with torch.no_grad():
        bits = nll(system.model, codes, labels).mean().item() / math.log(2)
    found = json.loads((run / "metrics.json").read_text())
    assert found["bits_per_dim"] == pytest.approx(bits, rel=1e-4) and found["bits_per_dim"] < 3  # 4.09 without learning


def test_an_image_is_the_same_alone_and_in_a_batch(run):
    system, seeds = load_system(run), ops.derive_seeds(0, torch.arange(5))
    labels = torch.arange(5)
    together = system.sample(labels, seeds, guidance=1.5)
    assert torch.equal(system.sample(labels[2:3], seeds[2:3], guidance=1.5)[0], together[2])


def test_the_command_line_draws_and_draws_again_what_a_file_keeps(run, tmp_path):
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    options = ["--labels", "3", "7", "--count-per-class=2", "--device=cpu"]
    drawing = ["--temperature=0.8", "--top-k=5", "--top-p=0.9", "--guidance=1.5"]
    assert cli.main(["sample", str(run), *options, *drawing, f"--out={first}"]) == 0
    assert cli.main(["sample", str(run), "--device=cpu", f"--like={first}", f"--out={again}"]) == 0
    assert pixels_of(first) == pixels_of(again)
    other = tmp_path / "c.png"
    assert cli.main(["sample", str(run), "--device=cpu", f"--like={first}", "--temperature=0", f"--out={other}"]) == 0
    assert pixels_of(first) != pixels_of(other)


def test_previews_show_how_the_codes_arise(run, tmp_path):
    options = ["--labels", "3", "--count-per-class=2", "--device=cpu", f"--out={tmp_path / 'a.png'}"]
    assert cli.main(["sample", str(run), *options, f"--preview-gif={tmp_path / 'a.gif'}"]) == 0
    with Image.open(tmp_path / "a.gif") as previews:
        assert previews.n_frames > 10


REFUSED = {
    "temperature": (["--temperature=-1"], "temperature must be at least 0 and finite, got -1.0"),
    "top-p": (["--top-p=2"], "top_p must lie in [0, 1], got 2.0"),
    "top-k": (["--top-k=0"], "top_k must be at least 1, got 0"),
    "sampler": (["--sampler=euler"], "sampler is no option of a model of codes, which has guidance, temperature"),
    "complete": (["--complete=1.5"], "complete must lie between 0 and 1, got 1.5"),
    "steps": (["--steps=5"], "steps must be 64, those of the order in which the codes are drawn, got 5"),
}


@pytest.mark.parametrize("options, sentence", REFUSED.values(), ids=REFUSED)
def test_an_option_that_does_not_fit_gets_a_sentence(options, sentence, run, capsys, tmp_path):
    assert sentence in mistake(capsys, "sample", run, *options, "--device=cpu", f"--out={tmp_path / 'a.png'}")


def test_settings_that_do_not_fit_the_images_get_a_sentence():
    format = ImageFormat(height=8, width=8, channels=3, class_names=("one", "two"))
    cnn, gpt = load_recipe("pixel-cnn"), load_recipe("pixel-gpt")
    with pytest.raises(UserError, match="width must be a multiple of the 3 channels, got 16"):
        build(cnn, cnn.settings(width=16), format)
    with pytest.raises(UserError, match="tile must divide both sides of the grid, 8 and 8, got 3"):
        build(gpt, gpt.settings(order="tiles", tile=3), format)
    large = ImageFormat(height=4096, width=4096, channels=3, class_names=("one",))
    with pytest.raises(UserError, match="images of 50331648 codes are too large for a model of codes: give a --size"):
        build(gpt, gpt.settings(), large)


def system_of_squares(sampler: CodeSampling, label_drop: float, classes: int = 3) -> CodeSystem:
    """Of images of 2×2 pixels with four levels."""
    model = SequenceModel(raster((2, 2, 1)), 4, width=8, depth=1, heads=1, classes=classes)
    stage = CodeStage(PixelCodes(2, 1, 4), (2, 2, 1))
    return CodeSystem(CodePrior(model, sampler), Labels(3, label_drop), stage).eval()


@pytest.mark.parametrize("label_drop, only", [(0.0, 1.0), (1.0, 0.0)])
def test_a_model_without_both_kinds_of_training_has_no_guidance(label_drop, only):
    system = system_of_squares(CodeSampling(guidance=2.0), label_drop)
    assert system.options()["guidance"] == only
    with pytest.raises(ValueError, match=f"guidance must be {only:g} for a model that was trained with label_drop"):
        system.options(guidance=3.0)


def test_labels_outside_the_classes_get_a_sentence():
    system = system_of_squares(CodeSampling(), 0.1)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 0 to 3"):
        system.sample(torch.tensor([0, 3]), torch.arange(2))
    with pytest.raises(ValueError, match="the model must have classes: a system of codes draws images of classes"):
        system_of_squares(CodeSampling(), 0.1, classes=0)


def test_the_upper_half_is_given_and_the_lower_drawn(run, tmp_path):
    system, recipe = load_system(run), load_recipe("pixel-gpt")
    held_out = recipe.held_out(recipe.settings_for("digits"))
    pixels, labels, _ = held_out.read(range(len(held_out)))
    pictures = to_range(pixels[labels == 3][:2])
    known = system.given(pictures, 0.5)
    assert torch.equal(known[:, :4], system.tokenizer.encode(pictures)[:, :4]) and (known[:, 4:] == -1).all()
    drawn = system.sample(torch.tensor([3, 3]), torch.tensor([0, 1]), known=known)
    assert torch.equal(drawn[:, :, :4], pictures[:, :, :4]) and not torch.equal(drawn[:, :, 4:], pictures[:, :, 4:])
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    asked = ["sample", str(run), "--device=cpu", "--labels", "3", "7", "--count-per-class=2", "--seeds", "0", "5"]
    assert cli.main([*asked, "--complete=0.5", f"--out={files[0]}"]) == 0
    assert cli.main(["sample", str(run), "--device=cpu", f"--like={files[0]}", f"--out={files[1]}"]) == 0
    assert cli.main([*asked, f"--out={files[2]}"]) == 0
    assert pixels_of(files[0]) == pixels_of(files[1]) != pixels_of(files[2])


def mask_file(path: Path, size: int = 8) -> Path:
    mask = Image.new("L", (size, size))
    mask.paste(255, (2, 1, 5, 4))
    mask.save(path)
    return path


def test_what_a_mask_covers_is_drawn_and_the_rest_is_given(run, tmp_path, capsys):
    system, mask = load_system(run), torch.zeros(8, 8).bool()
    mask[1:4, 2:5] = True
    pictures = to_range(digits().read(range(3))[0])
    known = system.given(pictures, mask)
    assert torch.equal(known[..., 0] < 0, mask.expand(3, -1, -1))
    drawn = system.sample(torch.tensor([0, 1, 2]), torch.arange(3), known=known)
    assert torch.equal(drawn[:, :, ~mask], pictures[:, :, ~mask]) and not torch.equal(drawn, pictures)
    files = [tmp_path / name for name in ("a.png", "b.png")]
    asked = ["sample", str(run), "--device=cpu", "--labels=3", "--count-per-class=2"]
    assert cli.main([*asked, f"--complete={mask_file(tmp_path / 'mask.png')}", f"--out={files[0]}"]) == 0
    assert cli.main([*asked, "--complete=0.5", f"--out={files[1]}"]) == 0
    assert pixels_of(files[0]) != pixels_of(files[1])
    large = mask_file(tmp_path / "large.png", 9)
    shape = f"--complete must be a mask of 8×8 pixels, as the images are, but {large} has 9×9"
    assert shape in mistake(capsys, *asked, f"--complete={large}", f"--out={files[0]}")
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png is no picture that can be read" in mistake(capsys, *asked, f"--complete={tmp_path / 'text.png'}")
    said = mistake(capsys, *asked, "--complete=half", f"--out={files[0]}")
    assert "--complete must be a number or the file of a mask, got half" in said


def test_a_mask_leaves_a_coarse_place_out_only_where_it_covers_none_of_it():
    mask = torch.zeros(8, 8).bool()
    mask[2, 3] = True
    kept = outside([(1, 1), (2, 2), (4, 4)], mask).tolist()
    assert kept == [False, False, True, True, True, *(place != 5 for place in range(16))]


def test_a_palette_is_found_among_the_training_images_and_kept(tmp_path):
    out = tmp_path / "run"
    assert cli.main(["train", "pixel-cnn", *SHORT, "--palette=5", f"--out={out}"]) == 0
    system = load_system(out)
    palette = system.tokenizer.palette
    assert system.model.size == 5 and palette.shape == (5, 1) and (palette[:, 0].diff() > 0.1).all()
    recipe = load_recipe("pixel-cnn")
    settings = recipe.settings_for("digits", palette=5)
    images = recipe.pictures(settings)
    again = build(recipe, settings, images.format)
    again.begin(images, device=torch.device("cpu"))
    assert torch.equal(again.tokenizer.palette, palette)

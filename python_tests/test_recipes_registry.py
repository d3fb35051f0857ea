"""Recipes: found by name and by path, on any data set, with defaults that suit it; systems from their runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from word_vectors import WordVectors

import visgen_fast
from visgen_fast import cli
from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.images import ImageFormat, ImagesInMemory, Resized, digits, resized
from visgen_fast.errors import UserError
from visgen_fast.recipes import _text
from visgen_fast.recipes.recipe import Recipe
from visgen_fast.recipes.registry import load_recipe, recipe_names
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.systems.tokenizer import TokenizerSystem

TINY = ["--batch-size=4", "--steps=2", "--device=cpu"]
TINY_FLOW = [*TINY, "--width=8", "--depth=1", "--heads=1", "--sampling-steps=1"]
TINY_TOKENIZER = [*TINY, "--widths", "4", "--levels", "3", "3"]
# Whose networks cut nothing into parts; or whose first stage or teacher does, as their own tests say.
OF_TEACHERS = ("add", "consistency-distillation", "dmd2", "ladd", "moment-matching", "progressive-distillation")
OF_ANY_SIZE = (
    *OF_TEACHERS,
    *("classifier", "pixel-cnn", "pixel-gpt", "pixel-rnn", "vae", "vdm"),
    *("token-gpt", "rq-transformer", "latent-diffusion", "var", "maskgit", "muse", "cascade"),
)
# Of clips, which no folder of images has; test_recipes_video.py.
OF_CLIPS = ("text-to-video", "video-tokenizer")
# Which have the network of a teacher.
STUDENTS = ("progressive-distillation", "consistency-distillation", "dmd2", "moment-matching", "add", "ladd")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
OWN_IMAGES = '''"""Stripes of a class of one's own."""

import torch

from visgen_fast.data.images import ImageFormat
from visgen_fast.recipes import rectified_flow
from visgen_fast.recipes import _text
from visgen_fast.recipes.recipe import Recipe


class Stripes:
    format = ImageFormat(height=8, width=4, channels=1, class_names=("dark", "bright"))

    def __len__(self):
        return 20

    def read(self, indices):
        labels = torch.tensor(indices) % 2
        return (labels * 255).byte().view(-1, 1, 1, 1).expand(-1, 1, 8, 4), labels, ()


RECIPE = Recipe(rectified_flow.Settings, lambda settings: Stripes(), rectified_flow.system)
'''


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setattr(_text, "TextEncoder", WordVectors)


def mistake(capsys, *arguments: str) -> str:
    assert cli.main(list(arguments)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("visgen-fast: ") and printed.count("\n") == 1
    return printed


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (20 * number, 0, 99)).save(path / f"{number:02}.png")
    return path


def settings_of(run: Path) -> dict:
    return json.loads((run / "settings.json").read_text())["settings"]


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in OF_CLIPS])
def test_every_recipe_is_an_object_that_takes_any_data_set(name, tmp_path):
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe) and recipe.name == name and recipe.description == recipe_names()[name]
    mine, others = folder_of(tmp_path / "mine", 20), {}
    if "first_stage" in recipe.settings.OTHER_RUNS:
        others["first_stage"] = str(tmp_path / "stage")
        small = [*TINY, "--widths", "4", "--workers=0", f"--dataset={mine}"]
        stage = {"var": "var-tokenizer", "muse": "vq-vae", "cascade": "vq-vae"}.get(name, "rq-vae")
        assert cli.main(["train", stage, *small, "--size=16", f"--out={tmp_path / 'stage'}"]) == 0
    if "coarse" in recipe.settings.OTHER_RUNS:
        others["coarse"] = str(tmp_path / "coarse")
        assert cli.main(["train", "vq-vae", *small, "--size=8", f"--out={tmp_path / 'half'}"]) == 0
        half = [f"--first-stage={tmp_path / 'half'}", "--size=8", "--width=8", "--depth=1", "--heads=1"]
        assert (
            cli.main(
                ["train", "maskgit", *TINY, "--workers=0", f"--dataset={mine}", *half, f"--out={others['coarse']}"]
            )
            == 0
        )
    if "teacher" in recipe.settings.OTHER_RUNS:
        others["teacher"] = str(tmp_path / "teacher")
        flow = [*TINY_FLOW, "--workers=0", "--size=16", "--time-scale=1", f"--dataset={mine}"]
        assert cli.main(["train", "rectified-flow", *flow, f"--out={others['teacher']}"]) == 0
    if "encoder" in recipe.settings.OTHER_RUNS or name == "add":
        others["features" if name == "add" else "encoder"] = str(tmp_path / "classifier")
        small = [*TINY, "--widths", "4", "--workers=0", "--size=16", f"--dataset={mine}"]
        assert cli.main(["train", "classifier", *small, f"--out={tmp_path / 'classifier'}"]) == 0
    if name == "consistency-training":
        del others["teacher"]
    settings = recipe.settings_for(str(mine), size=16, **others)
    images = recipe.pictures(settings)
    assert images.format.shape == (3, 16, 16)
    held_out = 0 if recipe.held_out is None else len(recipe.held_out(settings))
    assert len(images) + held_out == 20
    assert any(parameter.requires_grad for parameter in build(recipe, settings, images.format).parameters())


def test_listing_recipes_imports_nothing_heavy():
    program = "import sys; from visgen_fast.recipes.registry import recipe_names; recipe_names(); print(*sys.modules)"
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "accelerate", "PIL", "visgen_fast.recipes.rq_vae"} & set(finished.stdout.split())


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 20, 20)), ("photographs", (3, 20, 20))])
def test_a_named_data_set_comes_at_the_size_asked_for(name, shape):
    recipe = load_recipe("rectified-flow")
    images = recipe.pictures(recipe.settings_for(name, size=20))
    pixels, labels, _ = images.read([0, len(images) - 1])
    assert images.format.shape == shape and pixels.shape == (2, *shape) and pixels.dtype == torch.uint8
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("size", [5, 8, 21])
def test_images_are_resized_as_pillow_does_it(size):
    images = digits()
    pixels, labels, _ = resized(images, size).read(range(20))
    for ours, pixel in zip(pixels, images.pixels, strict=False):
        expected = Image.fromarray(pixel[0].numpy()).resize((size, size), Image.Resampling.BICUBIC)
        assert (ours[0].int() - torch.from_numpy(np.array(expected)).int()).abs().max() <= 1
    assert torch.equal(labels, images.labels[:20])


def test_resized_images_keep_no_copy_and_their_own_size_is_left_as_it_is():
    images = digits()
    assert resized(images, 8) is images
    larger = resized(images, 64)
    assert isinstance(larger, Resized) and larger.images is images and len(larger) == len(images)
    assert larger.format == ImageFormat(height=64, width=64, channels=1, class_names=images.format.class_names)
    some, _, _ = larger.read([3, 1796])
    assert torch.equal(larger.read([1796])[0], some[1:])


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in OF_ANY_SIZE + STUDENTS + OF_CLIPS])
def test_a_size_that_does_not_fit_the_network_is_one_sentence(name, tmp_path, capsys):
    command = ["train", name, "--dataset=digits", "--size=9", *TINY, f"--out={tmp_path / 'run'}"]
    said = mistake(capsys, *command)
    assert " must " in said and "divi" in said and said.rstrip()[-1].isdigit()
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_size(tmp_path, capsys):
    command = ["train", "rectified-flow", "--dataset=digits", *TINY_FLOW, f"--out={tmp_path / 'run'}"]
    assert cli.main([*command, "--size=12"]) == 0
    assert settings_of(tmp_path / "run")["size"] == 12
    capsys.readouterr()
    assert "these differ: size (was 12, now 16)" in mistake(capsys, *command, "--size=16", "--resume")
    assert "these differ: size (was 12, now 8)" in mistake(capsys, *command, "--resume")


def test_crops_larger_than_a_photograph_are_refused():
    with pytest.raises(UserError, match="size must be at most 150 for crops of these photographs, got 151"):
        DATASETS["photographs"].held_out(None, 151)


def test_defaults_follow_the_data_set_and_what_is_chosen_wins(tmp_path):
    recipe = load_recipe("rectified-flow")
    widths = {name: recipe.settings_for(name).width for name in ("digits", "fashion-mnist", "some/folder")}
    assert widths == {"digits": 128, "fashion-mnist": 256, "some/folder": 384}
    assert recipe.settings_for("fashion-mnist", width=64).width == 64
    assert [recipe.settings_for(name).size for name in ("digits", "fashion-mnist", "some/folder")] == [8, 28, 64]
    out = tmp_path / "run"
    data = folder_of(tmp_path / "mine", 3)
    command = ["train", "rectified-flow", "--dataset", str(data), f"--out={out}", *TINY_FLOW, "--workers=0"]
    assert cli.main([*command, "--size=8"]) == 0
    used = settings_of(out)
    assert (used["width"], used["patch_size"], used["learning_rate"], used["horizontal_flip"]) == (8, 4, 3e-4, True)


def test_a_run_on_a_folder_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    folder_of(tmp_path / "mine", 12)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "fsq", "--dataset=mine", "--size=8", *TINY_TOKENIZER, "--out=run"]) == 0
    used = settings_of(tmp_path / "run")
    assert (used["dataset"], used["data"], used["size"]) == ("folder", str(tmp_path / "mine"), 8)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["evaluate", str(tmp_path / "run"), "--pictures=2", "--device=cpu"]) == 0


def test_too_few_images_are_named_before_work_begins(tmp_path, capsys):
    one, ten = folder_of(tmp_path / "one", 1), folder_of(tmp_path / "ten", 10)
    out = tmp_path / "run"
    command = ["train", "fsq", *TINY_TOKENIZER, "--size=8", f"--out={out}"]
    assert f"{one} has 1 image" in mistake(capsys, *command, f"--dataset={one}")
    classifier = tmp_path / "classifier"
    colour = ["train", "classifier", *TINY, "--widths", "4", "--size=8", f"--dataset={ten}", f"--out={classifier}"]
    assert cli.main(colour) == 0
    capsys.readouterr()
    command = [*command, f"--dataset={ten}"]
    assert "at least 2 held-out images, but" in mistake(capsys, *command, f"--features={classifier}")
    assert not out.exists()
    assert cli.main(command) == 0
    capsys.readouterr()
    assert "at least 2 held-out images" in mistake(capsys, "evaluate", str(out), f"--features={classifier}")
    flow = ["train", "rectified-flow", *TINY_FLOW, "--size=8", f"--dataset={one}", f"--out={tmp_path / 'flow'}"]
    assert cli.main([*flow, "--workers=0"]) == 0


def test_a_trained_system_is_loaded_from_its_run(tmp_path):
    assert cli.main(["train", "rectified-flow", *TINY_FLOW, f"--out={tmp_path / 'flow'}"]) == 0
    assert cli.main(["train", "fsq", "--dataset=digits", *TINY_TOKENIZER, f"--out={tmp_path / 'fsq'}"]) == 0
    flow, fsq = load_system(tmp_path / "flow"), load_system(str(tmp_path / "fsq" / "checkpoints" / "step-00000002"))
    assert isinstance(flow, PriorSystem) and isinstance(fsq, TokenizerSystem)
    assert not flow.model.training and not fsq.tokenizer.training
    assert flow.sample(torch.tensor([3]), torch.tensor([0])).shape == (1, 1, 8, 8)
    assert fsq.tokenizer.encode(torch.zeros(1, 1, 8, 8)).dtype == torch.int64
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_system(tmp_path)


def test_a_class_of_images_in_a_recipe_s_file_is_found_by_loading_processes(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_IMAGES)
    command = ["train", str(tmp_path / "mine.py"), *TINY_FLOW, "--workers=1", f"--out={tmp_path / 'run'}"]
    (tmp_path / "main.py").write_text(
        "import multiprocessing, sys\nfrom visgen_fast.cli import main\nif __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('forkserver')\n    sys.exit(main({command}))\n"
    )
    command = [sys.executable, str(tmp_path / "main.py")]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "run" / "samples.png").exists()
    assert load_system(tmp_path / "run", recipe=tmp_path / "mine.py").shape == (1, 8, 4)


def test_images_need_not_be_square_but_where_the_network_says_so():
    pixels = torch.randint(0, 256, (6, 3, 8, 16), dtype=torch.uint8)
    format = ImagesInMemory(pixels, torch.zeros(6, dtype=torch.int64), ["all"]).format
    assert (format.height, format.width, format.channels, format.frames) == (8, 16, 3, None)
    flow, fsq, titok = (load_recipe(name) for name in ("rectified-flow", "fsq", "titok"))
    system = build(flow, flow.settings(width=8, depth=1, heads=1, sampling_steps=1), format)
    assert system.sample(torch.tensor([0]), torch.tensor([1])).shape == (1, 3, 8, 16)
    system = build(fsq, fsq.settings(widths=(4, 4)), format)
    assert system.tokenizer(pixels.float()).images.shape == pixels.shape
    with pytest.raises(UserError, match="the images must be square for this network, got 8×16 pixels"):
        build(titok, titok.settings(), format)


def test_a_clip_s_format_has_its_frames_and_a_format_survives_being_written():
    clips = ImagesInMemory(torch.zeros(2, 3, 5, 8, 8, dtype=torch.uint8), torch.arange(2), ["a", "b"], captions=True)
    assert clips.format.frames == 5 and clips.format.shape == (3, 5, 8, 8) and clips.format.captions
    assert type(clips.format).from_json(json.loads(json.dumps({"count": 2, **clips.format.to_json()}))) == clips.format


def test_of_captions_some_are_drawn_one_image_each(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        OWN_IMAGES.replace('("dark", "bright")', "tuple(map(str, range(200))), captions=True")
    )
    command = ["train", str(tmp_path / "mine.py"), *TINY_FLOW, f"--out={tmp_path / 'run'}"]
    assert cli.main(command) == 0
    with Image.open(tmp_path / "run" / "samples.png") as grid:
        assert grid.size == (4 + 10 * 28, 4 + 4 * 52)
    drawn = tmp_path / "drawn.png"
    command = ["sample", str(tmp_path / "run"), f"--recipe={tmp_path / 'mine.py'}"]
    assert cli.main([*command, "--count-per-class=2", f"--out={drawn}", "--device=cpu"]) == 0
    with Image.open(drawn) as grid:
        assert grid.height == 4 + 10 * 52
    capsys.readouterr()
    assert "there is no class '19x'; there are 19" in mistake(capsys, *command, "--labels=19x")


def test_the_demo_trains_on_what_is_at_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("visgen_fast.data.idx.FASHION_MNIST_FOLDER", tmp_path / "nowhere")
    assert cli.main(["demo", *TINY_FLOW, f"--out={tmp_path / 'demo'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("visgen-fast train rectified-flow --dataset digits") and "samples.png" in printed
    assert settings_of(tmp_path / "demo")["size"] >= 16

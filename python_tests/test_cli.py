"""The command line: what it prints, and one sentence with exit code 2 for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import visgen_fast
from visgen_fast import cli
from visgen_fast.commands import bench, recipes
from visgen_fast.recipes.registry import load_recipe, recipe_names

TINY = ["--width=16", "--depth=1", "--heads=2", "--batch-size=8", "--steps=3", "--device=cpu", "--sampling-steps=2"]
# After three steps at this rate the network is no good, but no longer the zero that it begins as.
TINY += ["--learning-rate=0.02", "--warmup-steps=0"]
RECIPE = '''"""A recipe of one's own: digits in a very small network."""

from dataclasses import dataclass

from visgen_fast.recipes import rectified_flow
from visgen_fast.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(rectified_flow.Settings):
    ink: int = 3
    """A setting of its own."""


RECIPE = Recipe(Settings, lambda settings: settings.images, rectified_flow.system)
'''


def mistake(capsys, *arguments: str) -> str:
    """The sentence with which the command line refuses `arguments`."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("visgen-fast: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a short run of the digits."""
    out = tmp_path_factory.mktemp("run")
    assert cli.main(["train", "rectified-flow", f"--out={out}", *TINY]) == 0
    return out


def test_help_names_every_command_and_imports_nothing_heavy():
    program = "import sys\nfrom visgen_fast.cli import main\nmain(['--help'])\nprint(*sys.modules, file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    commands = ("train", "sample", "evaluate", "samplers", "recipes", "info", "bench")
    assert all(f"  {command} " in finished.stdout for command in commands)
    assert not {"torch", "accelerate", "tyro", "PIL", "matplotlib"} & set(finished.stderr.split())


def test_the_module_is_the_command():
    environment = {**os.environ, "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1])}
    command = [sys.executable, "-m", "visgen_fast", "frobnicate"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 2 and finished.stdout == ""
    assert finished.stderr.count("\n") == 1 and "frobnicate" in finished.stderr


def test_recipes_lists_every_recipe_with_its_first_line(capsys):
    assert cli.main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert set(recipe_names()) >= {"rectified-flow", "rq-vae", "classifier"}
    for name, line in recipe_names().items():
        assert name in printed and line.split()[0] in printed
        assert load_recipe(name).name == name and load_recipe(name).description == line


def test_a_recipe_s_help_lists_its_settings_with_their_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "rectified-flow", "--dataset", "my/images", "--help"])
    assert not stopped.value.code
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--patch-size INT Side of the square of pixels that becomes one token. (default: 4)" in printed
    assert "--data STR" in printed and "--resume" in printed


def test_train_leaves_a_readable_folder(run):
    assert {path.name for path in run.iterdir()} >= {
        "settings.json",
        "losses.csv",
        "loss.png",
        "samples.png",
        "tensorboard",
    }
    assert json.loads((run / "settings.json").read_text())["settings"]["width"] == 16
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003"]
    with Image.open(run / "samples.png") as grid:
        assert grid.height == 4 + 10 * 52


def test_sample_draws_the_classes_asked_for_and_the_same_ones_as_the_whole_grid(run, tmp_path, capsys):
    command = ["sample", str(run), "--device=cpu", "--count-per-class=3"]
    assert cli.main([*command, f"--out={tmp_path / 'all.png'}"]) == 0
    assert cli.main([*command, f"--out={tmp_path / 'new' / 'two.png'}", "--labels", "7", "2"]) == 0
    assert str(tmp_path / "new" / "two.png") in capsys.readouterr().out
    with Image.open(tmp_path / "all.png") as whole, Image.open(tmp_path / "new" / "two.png") as some:
        size = (3 * 52 + 4, 52)
        left = whole.width - size[0]
        for row, label in enumerate((7, 2)):
            boxes = [(left, top, left + size[0], top + size[1]) for top in (label * 52, row * 52)]
            expected, got = (np.asarray(image.crop(box), int) for image, box in zip((whole, some), boxes, strict=True))
            # A matrix product's last bit may depend on the size of the batch, and round to the next of 256 values.
            assert abs(expected - got).max() <= 1 and expected.std() > 10


def test_sample_by_another_seed_guidance_or_steps_draws_other_images(run, tmp_path):
    def drawn(*options: str) -> bytes:
        command = ["sample", str(run / "checkpoints" / "step-00000003"), f"--out={tmp_path / 'x.png'}", "--labels=1"]
        assert cli.main([*command, "--device=cpu", *options]) == 0
        return (tmp_path / "x.png").read_bytes()

    assert drawn() == drawn()
    assert len({drawn(), drawn("--seed=1"), drawn("--steps=7"), drawn("--guidance=5")}) == 4


def test_a_finished_run_is_not_overwritten_but_can_be_made_longer(tmp_path, capsys, caplog):
    out = tmp_path / "run"
    out.mkdir()
    assert cli.main(["train", "rectified-flow", f"--out={out}", *TINY]) == 0
    capsys.readouterr()
    assert "--resume" in mistake(capsys, "train", "rectified-flow", f"--out={out}", *TINY)
    assert cli.main(["train", "rectified-flow", f"--out={out}", "--resume", *TINY, "--steps=4"]) == 0
    assert sum("cosine decay that ends at step 3, " in message for message in caplog.messages) == 1
    assert (out / "checkpoints" / "step-00000004").is_dir()
    capsys.readouterr()
    assert "width (was 16, now 32)" in mistake(
        capsys, "train", "rectified-flow", f"--out={out}", "--resume", *TINY, "--width=32", "--steps=5"
    )


def test_a_recipe_of_one_s_own_is_trained_and_sampled_by_its_path(tmp_path):
    (tmp_path / "mine.py").write_text(RECIPE)
    out = tmp_path / "out"
    assert cli.main(["train", str(tmp_path / "mine.py"), f"--out={out}", *TINY, "--ink=4"]) == 0
    assert json.loads((out / "settings.json").read_text())["settings"]["ink"] == 4
    sample = ["sample", str(out), "--labels=1", f"--out={tmp_path / 'x.png'}", "--device=cpu"]
    assert cli.main([*sample, f"--recipe={tmp_path / 'mine.py'}"]) == 0


def test_a_folder_of_images_is_trained_on_with_loading_processes(tmp_path):
    for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "data" / label).mkdir(parents=True)
        for count in range(3):
            Image.new("RGB", (20, 30), colour).save(tmp_path / "data" / label / f"{count}.png")
    command = [
        "train",
        "rectified-flow",
        f"--dataset={tmp_path / 'data'}",
        f"--out={tmp_path / 'out'}",
        "--size=16",
        "--workers=1",
    ]
    assert cli.main([*command, *TINY]) == 0
    with Image.open(tmp_path / "out" / "samples.png") as grid:
        assert grid.height == 4 + 2 * 52


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["frobnicate"],
            "there is no command 'frobnicate'; there are train, sample, evaluate, export, encode, index, samplers,",
        ),
        (["train", "digits"], "there is no recipe 'digits' (digits is a data set: --dataset digits); there are "),
        (["train", "frobnicate"], "there is no recipe 'frobnicate'; there are "),
        (["train", "--steps=3"], "the recipe comes first"),
        (["train", "rectified-flow", "--stepz=3"], "--stepz"),
        (["train", "rectified-flow", "--steps=many"], "--steps"),
        (["train", "rectified-flow", "--steps"], "--steps"),
        (["train", "rectified-flow", "--steps=0"], "steps must be a number of at least 1, got 0"),
        (["train", "rectified-flow", "--patch-size=0"], "patch_size must be a number of at least 1, got 0"),
        (["train", "rectified-flow", "--patch-size=-2"], "patch_size must be a number of at least 1, got -2"),
        (["train", "rectified-flow", "--width=-16"], "width must be a number of at least 4, got -16"),
        (["train", "rectified-flow", "--depth=-1"], "depth must be a number of at least 1, got -1"),
        (["train", "rectified-flow", "--heads=0"], "heads must be a number of at least 1, got 0"),
        (["train", "rectified-flow", "--sampling-steps=0"], "sampling_steps must be a number of at least 1, got 0"),
        (["train", "rectified-flow", "--dataset=x", "--size=0"], "size must be a number of at least 1, got 0"),
        (["train", "rectified-flow", "--lr-schedule=linear"], "--lr-schedule"),
        (["train", "rectified-flow", "--dataset"], "--dataset"),
        (["train", "rectified-flow", "--dataset=nowhere"], "nowhere is not a folder; the data sets with names are "),
        (["train", "rectified-flow", "--dataset=folder", "--data=nowhere"], "nowhere is not a folder"),
        (["train", "rectified-flow", "--dataset=nowhere", "--data=here"], "--data must go with the name of a data set"),
        (["train", "rectified-flow", "--dataset=fashion-mnist", "--data=nowhere"], "nowhere has no train-images-idx3"),
        (["train", "rectified-flow", "--dataset=emoji", "--data=nowhere"], "nowhere has no NotoColorEmoji.ttf"),
        (["train", "rectified-flow", "--device=cpu", "--patch-size=3", "--out=x"], "patch_size must divide"),
        (["train", "rectified-flow", "--device=cpu", "--label-drop=2", "--out=x"], "label_drop must lie in [0, 1]"),
        (["train", "rectified-flow", *TINY, "--accumulation=3", "--out=x"], "batch_size must be divisible by"),
        (["train", "rectified-flow", "--dropout=nan", "--out=x"], "dropout must lie in [0, 1), got nan"),
        (["train", "rectified-flow", "--dropout=1", "--out=x"], "dropout must lie in [0, 1), got 1.0"),
        (["train", "rectified-flow", "--learning-rate=1e300", "--out=x"], "learning_rate must lie in (0, 1000]"),
        (["train", "rectified-flow", "--learning-rate=nan", "--out=x"], "learning_rate must lie in (0, 1000], got nan"),
        (["train", "vq-vae", "--adversary-lr-scale=1e300", "--out=x"], "adversary_lr_scale must lie in [0, 1000]"),
        (["sample"], "checkpoint"),
        (["sample", "nowhere"], "nowhere holds no checkpoint"),
        (["recipes", "digits"], "takes no arguments"),
        (["info", "digits"], "Unrecognized options: digits"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in mistake(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels=10"], "there is no class '10'; there are 0, 1"),
        (["--count-per-class=0"], "must be at least 1"),
        ([f"--seed={2**63}"], f"--seed must lie in [-2**63, 2**63), got {2**63}"),
        (["--device=abacus"], "--device abacus"),
        (["--out=x.docx"], "--out must be the name of a .png file, got x.docx"),
        (["--out=/proc/x.png"], "/proc/x.png cannot be written: "),
    ],
)
def test_a_mistake_in_sampling_is_answered_in_one_sentence(run, options, said, capsys):
    assert said in mistake(capsys, "sample", str(run), *options)


def test_a_file_that_is_no_recipe_is_refused_by_what_it_lacks(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def images(settings): ...\n")
    assert "mine.py is not a recipe: it defines no RECIPE" in mistake(capsys, "train", str(tmp_path / "mine.py"))


def test_a_missing_extra_is_named_with_its_remedy(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert "pip install 'visgen_fast[train]'" in mistake(capsys, "train", "rectified-flow")


def test_a_bug_shows_its_traceback(monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(recipes, "recipes", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["recipes"])


def test_info_shows_versions_and_device(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in ("visgen_fast", "torch", "python", "device", "libraries"))


def make_benchmarks(folder: Path, name: str) -> None:
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "__main__.py").write_text(f"import sys\nprint({name!r}, sys.argv[1:])\nsys.exit(3)\n")


def make_checkout(folder: Path, name: str) -> None:
    make_benchmarks(folder, name)
    (folder / "visgen_fast").mkdir()
    (folder / "csrc").mkdir()


def test_bench_outside_a_checkout_says_where_the_benchmarks_are(capsys, monkeypatch, tmp_path):
    make_benchmarks(tmp_path, "another project's")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages" / "visgen_fast" / "commands" / "bench.py"))
    assert "checkout" in mistake(capsys, "bench")


def test_bench_runs_the_benchmarks_of_the_checkout_it_belongs_to_or_else_of_the_one_around_it(
    monkeypatch, tmp_path, capfd
):
    make_checkout(tmp_path / "here", "around it")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "own" / "visgen_fast" / "commands" / "bench.py"))
    assert cli.main(["bench", "noise"]) == 3
    assert "around it ['noise']" in capfd.readouterr().out
    make_checkout(tmp_path / "own", "its own")
    assert cli.main(["bench", "noise"]) == 3
    assert "its own ['noise']" in capfd.readouterr().out

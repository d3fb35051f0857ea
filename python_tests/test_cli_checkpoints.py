"""Checkpoints that others wrote: what they name is never run, what they say commands no terminal and no memory."""

import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import fuzz_checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from visgen_fast import cli
from visgen_fast.errors import UserError
from visgen_fast.recipes.budget import require_fit
from visgen_fast.recipes.registry import load_recipe, recipe_names
from visgen_fast.recipes.runs import load_system
from visgen_fast.training import checkpoint
from visgen_fast.training.settings import settings_from

OWN = '''"""Rectified flow in a file of one's own."""

import pathlib

from visgen_fast.recipes import rectified_flow
from visgen_fast.recipes.recipe import Recipe

pathlib.Path(__file__).with_name("was_run").touch()
RECIPE = Recipe(rectified_flow.Settings, lambda settings: settings.images, rectified_flow.system)
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the runs `flow` and `tokenizer`."""
    folder = tmp_path_factory.mktemp("runs")
    fuzz_checkpoints.train(folder)
    return folder


@pytest.fixture
def copied(runs, tmp_path) -> Path:
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def rewrite(run: Path, **changes: object) -> None:
    """Changes what the run's checkpoint says: values of state.json, by "part__key" inside its parts."""
    path = run / "checkpoints" / "step-00000001" / "state.json"
    state = json.loads(path.read_text())
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            state[part][key] = value
        else:
            state[part] = value
    path.write_text(json.dumps(state))


def sample(run: Path, *options: str) -> list[str]:
    return ["sample", str(run), "--count-per-class=1", "--device=cpu", f"--out={run.parent / 'x.png'}", *options]


def evaluate(run: Path, *options: str) -> list[str]:
    return ["evaluate", str(run), "--pictures=2", "--device=cpu", f"--out={run.parent / 'out'}", *options]


def mistake(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("visgen-fast: ") and captured.err.count("\n") == 1 and captured.out == ""
    return captured.err


@pytest.mark.parametrize("run", ["flow", "tokenizer"])
def test_what_a_checkpoint_names_is_never_run(copied, run, capsys):
    file = copied / "recipe.py"
    file.write_text(OWN)
    rewrite(copied / run, recipe=str(file))
    command = sample if run == "flow" else evaluate
    said = mistake(capsys, command(copied / run))
    assert f"does not come with visgen-fast, {file}: give its file as --recipe, if you trust it" in said
    with pytest.raises(UserError, match="--recipe"):
        load_system(copied / run)
    assert not (copied / "was_run").exists()


@pytest.mark.parametrize(
    "name", ["budget", "registry", "_images", "own", "recipe", "rectified_flow.py", "../cli", "", "\x1b[2J"]
)
def test_only_names_of_recipes_are_recipes(copied, name, capsys, monkeypatch):
    monkeypatch.chdir(copied)
    rewrite(copied / "flow", recipe=name)
    assert "does not come with visgen-fast" in mistake(capsys, sample(copied / "flow"))


def test_a_recipe_of_one_s_own_is_run_where_it_is_named(copied, capsys):
    file = copied / "mine" / "recipe.py"
    file.parent.mkdir()
    file.write_text(OWN)
    rewrite(copied / "flow", recipe="/nowhere/else/recipe.py")
    assert cli.main(sample(copied / "flow", f"--recipe={file}")) == 0
    assert (copied / "x.png").exists() and (file.parent / "was_run").exists()
    assert load_system(copied / "flow", recipe=file).prior.sampler.steps == 1


def test_a_recipe_of_one_s_own_is_checked_against_the_checkpoint(copied, capsys):
    file = copied / "recipe.py"
    assert "no --recipe" in mistake(capsys, sample(copied / "flow", f"--recipe={file}"))
    rewrite(copied / "flow", recipe="mine.py")
    assert "there is no recipe" in mistake(capsys, sample(copied / "flow", f"--recipe={file}"))
    file.write_text(OWN)
    rewrite(copied / "flow", settings__ink=3)
    said = mistake(capsys, sample(copied / "flow", f"--recipe={file}"))
    assert "settings that its recipe no longer knows: ink" in said
    file.write_text(OWN.replace("rectified_flow", "vq_vae"))
    rewrite(copied / "tokenizer", recipe="mine.py")
    assert "settings" in mistake(capsys, evaluate(copied / "tokenizer", f"--recipe={file}"))


ENORMOUS = {"depth": 10**9, "width": 10**9, "heads": 10**9, "patch_size": 10**9, "sampling_steps": 10**9}


@pytest.mark.parametrize("factor", [1, 10**400])
@pytest.mark.parametrize("name", ENORMOUS)
def test_sizes_in_a_checkpoint_are_refused_before_anything_is_built(copied, name, factor, capsys):
    rewrite(copied / "flow", **{f"settings__{name}": ENORMOUS[name] * factor})
    began = time.process_time()
    mistake(capsys, sample(copied / "flow"))
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("name", "value"),
    [("depth", 10**9), ("beam", 10**9), ("codes", 10**9), ("blocks", 10**9), ("widths", [10**9, 10**9])],
)
def test_sizes_of_a_tokenizer_are_refused_likewise(copied, name, value, capsys):
    rewrite(copied / "tokenizer", **{f"settings__{name}": value})
    mistake(capsys, evaluate(copied / "tokenizer"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("height", 10**9, "height must be a whole number from 1 to 4096"),
        ("channels", 0, "channels must be a whole number from 1 to 64"),
        ("width", True, "width must be a whole number"),
        ("frames", 10**9, "frames must be a whole number"),
        ("class_names", [], "there must be 1 to 1048576 classes"),
        ("class_names", "names", "class_names must be texts"),
        ("class_names", ["x" * 10**6], "of at most 10000 letters"),
        ("class_names", [1, 2], "class_names must be texts"),
    ],
)
def test_images_that_a_checkpoint_describes_are_within_bounds(copied, name, value, said, capsys):
    rewrite(copied / "flow", **{f"images__{name}": value})
    assert said in mistake(capsys, sample(copied / "flow"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("run", ["flow", "tokenizer"])
def test_weights_that_give_no_finite_numbers_are_one_sentence(copied, run, value, capsys):
    saved = copied / run / "checkpoints" / "step-00000001"
    state = json.loads((saved / "state.json").read_text())
    for part in ("weights", "average"):
        path = saved / f"{part}.safetensors"
        tensors = load_file(path)
        numbers = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
        save_file({**tensors, **{name: torch.full_like(tensor, value) for name, tensor in numbers.items()}}, path)
        state["sha256"][part] = hashlib.sha256(path.read_bytes()).hexdigest()
    (saved / "state.json").write_text(json.dumps(state))
    command = sample if run == "flow" else evaluate
    assert "finite" in mistake(capsys, command(copied / run))


def test_every_built_in_network_is_counted_without_being_built():
    images = checkpoint.ImageFormat(height=32, width=32, channels=3, class_names=("a", "b"))
    for name in recipe_names():
        recipe = load_recipe(name)
        if {"first_stage", "teacher", "encoder"} & {*recipe.settings.OTHER_RUNS}:
            continue  # their own tests have one
        settings = settings_from(recipe.settings, {})
        shown = replace(images, frames=getattr(settings, "frames", None))
        build = partial(recipe.system, settings, shown)
        require_fit(build, build().state_dict())
        with torch.device("meta"):  # where an error would leave the network uncounted
            build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(10**9)),
        lambda: torch.nn.ModuleList(torch.nn.Identity() for _ in range(10**9)),
        lambda: torch.nn.Linear(10**9, 10**9),
        lambda: torch.nn.Module().register_buffer("table", torch.empty(10**12)),
    ],
)
def test_a_network_far_larger_than_its_weights_is_not_built(build):
    with pytest.raises(UserError, match="far larger network"):
        require_fit(build, torch.nn.Linear(4, 4).state_dict())


def test_class_names_reach_the_terminal_escaped_and_cut(copied, capsys):
    names = [f"\x1b]0;owned\x07{number}\n" for number in range(10)]
    rewrite(copied / "flow", images__class_names=names)
    said = mistake(capsys, sample(copied / "flow", "--labels=nobody"))
    assert "\\x1b]0;owned\\x070\\n" in said
    assert cli.main(sample(copied / "flow")) == 0  # and are drawn beside their rows
    rewrite(copied / "flow", images__class_names=["x" * 9_000] * 10)
    assert len(mistake(capsys, sample(copied / "flow", "--labels=nobody"))) < 3000
    assert cli.main(sample(copied / "flow")) == 0


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors", "average.safetensors"])
@pytest.mark.parametrize("make", ["pipe", "endless", "folder", "ring"])
def test_what_is_no_file_hangs_nothing(copied, file, make, capsys):
    path = copied / "flow" / "checkpoints" / "step-00000001" / file
    path.unlink()
    if make == "pipe":
        os.mkfifo(path)
    elif make == "endless":
        path.symlink_to("/dev/zero")
    elif make == "ring":
        path.symlink_to(path)
    else:
        path.mkdir()
    assert "damaged" in mistake(capsys, sample(copied / "flow"))


def test_a_state_that_is_endless_is_not_read(copied, capsys):
    path = copied / "flow" / "checkpoints" / "step-00000001" / "state.json"
    path.write_bytes(b" " * (2**24 + 1))
    assert "not a file of at most 16777216 bytes" in mistake(capsys, sample(copied / "flow"))


def test_damaged_checkpoints_are_used_or_refused():
    assert fuzz_checkpoints.fuzz(25) < 25

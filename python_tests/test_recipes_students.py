"""Recipes of few-step models: they begin as their teacher, go on bit for bit, and are drawn at 1, 2 and 4 steps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from visgen_fast import cli, ops
from visgen_fast.data.images import digits
from visgen_fast.data.order import Batch
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.training.system import players_of

TINY = ["--device=cpu", "--batch-size=4", "--sample-every=0", "--checkpoint-every=0", "--warmup-steps=0"]
TINY += ["--lr-schedule=constant", "--learning-rate=0.01", "--sampling-steps=2"]
SIZES = ["--width=8", "--depth=1", "--heads=1", "--patch-size=4"]
STUDENTS = {
    "progressive-distillation": ["--grids", "4", "2", "1", "--guidance", "2"],
    "consistency-distillation": ["--intervals=4", "--guidance", "2"],
    "scm": ["--warmup=3"],
    "mean-flow": ["--guidance", "1", "3"],
    "shortcut": ["--grid=8"],
    "lagrangian": [],
    "dmd2": ["--every=2", "--guidance=2"],
    "moment-matching": [],
    "add": [],
    "ladd": [],
}


def train(*arguments: str) -> int:
    return cli.main(["train", *arguments, *TINY])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "flow"
    assert train("rectified-flow", "--steps=2", "--time-scale=1", f"--out={out}", *SIZES) == 0
    return out


def weights_of(out: Path) -> dict[str, dict[str, Tensor]]:
    (folder,) = sorted((out / "checkpoints").glob("*[0-9]"))[-1:]
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def assert_same(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys() and len(first) >= 3
    for file in first:
        assert first[file].keys() == second[file].keys()
        assert all(torch.equal(first[file][key], second[file][key]) for key in first[file])


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_that_was_killed_goes_on_bit_for_bit_and_draws(name: str, teacher: Path, tmp_path: Path) -> None:
    asked = [name, *STUDENTS[name], f"--teacher={teacher}"]
    if name == "add":
        command = ["train", "classifier", "--dataset=digits", "--steps=1", "--batch-size=4", "--device=cpu"]
        assert cli.main([*command, f"--out={tmp_path / 'judge'}"]) == 0
        asked += [f"--features={tmp_path / 'judge'}"]
    assert train(*asked, "--steps=6", "--checkpoint-every=3", f"--out={tmp_path / 'once'}") == 0
    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    (newest,) = (tmp_path / "twice" / "checkpoints").glob("*6")
    shutil.rmtree(newest)
    assert train(*asked, "--steps=6", "--checkpoint-every=3", "--resume", f"--out={tmp_path / 'twice'}") == 0
    assert_same(tmp_path / "once", tmp_path / "twice")
    system: Any = load_system(tmp_path / "once")
    labels, seeds = torch.tensor([3, 3, 1]), ops.derive_seeds(0, torch.arange(3))
    drawn = [system.sample(labels, seeds, steps=steps) for steps in (1, 2)]
    assert drawn[0].shape == (3, 1, 8, 8) and drawn[0].isfinite().all() and not torch.equal(*drawn)


@pytest.mark.parametrize("name", ["mean-flow", "shortcut", "consistency-distillation"])
def test_a_student_begins_as_its_teacher_s_euler_steps(name: str, teacher: Path) -> None:
    recipe = load_recipe(name)
    settings = recipe.settings_for("digits", teacher=str(teacher))
    student: Any = build(recipe, settings, digits().format).eval()
    of_teacher: Any = load_system(teacher)
    labels, seeds = torch.tensor([3, 3, 1]), ops.derive_seeds(0, torch.arange(3))
    wanted = of_teacher.sample(labels, seeds, steps=4, guidance=1.0)
    assert torch.equal(student.sample(labels, seeds, steps=4, sampler="euler"), wanted)


def test_a_progressive_student_s_guide_is_its_average_at_the_beginning_of_each_round(teacher: Path) -> None:
    recipe = load_recipe("progressive-distillation")
    settings = recipe.settings_for("digits", teacher=str(teacher), grids=(4, 2), steps=8, guidance=(2.0,))
    system: Any = build(recipe, settings, digits().format)
    average: Any = build(recipe, settings, digits().format)
    system.follow(average)
    system.freeze()
    (player,) = players_of(system)
    assert len(player.parameters) == len(list(system.model.parameters()))
    with torch.no_grad():
        for parameter in average.model.parameters():
            parameter.add_(0.1)
    before = {key: value.clone() for key, value in system.guide.state_dict().items()}
    system.before_step(3)
    assert system.objective.steps == 4 and system.objective.guidance == (2.0, 2.0)
    assert all(torch.equal(before[key], value) for key, value in system.guide.state_dict().items())
    system.before_step(4)
    assert system.objective.steps == 2 and system.objective.guidance == (1.0, 1.0)
    assert all(torch.equal(average.model.state_dict()[key], value) for key, value in system.guide.state_dict().items())
    pixels, labels, _ = digits().read(range(4))
    batch = Batch(pixels, labels, ops.derive_seeds(0, torch.arange(4)), 0, (), torch.arange(4))
    loss = system(batch)
    assert loss.shape == (4,) and loss.isfinite().all()


@pytest.mark.parametrize("name", ["dmd2", "ladd"])
def test_players_teach_their_own_weights_alone_and_the_student_rests_in_between(name: str, teacher: Path) -> None:
    recipe = load_recipe(name)
    system: Any = build(recipe, recipe.settings_for("digits", teacher=str(teacher)), digits().format)
    system.freeze()
    judge, student = players_of(system)
    assert [player.acts(1) for player in (judge, student)] == [True, name == "ladd"]
    pixels, labels, _ = digits().read(range(4))
    batch = Batch(pixels, labels, ops.derive_seeds(0, torch.arange(4)), 0, (), torch.arange(4))
    for player in (judge, student):
        loss = player.loss(batch)
        assert loss.shape == (4,) and loss.isfinite().all()
    for parameter in judge.parameters:
        parameter.requires_grad_(False)
    student.loss(batch).mean().backward()
    assert all(parameter.grad is not None for parameter in student.parameters if parameter.requires_grad)
    assert all(parameter.grad is None for parameter in system.teacher.parameters())


@pytest.mark.parametrize(("name", "more"), [("mean-flow", []), ("consistency-training", ["--intervals", "2", "4"])])
def test_images_suffice_where_no_teacher_is_needed(name: str, more: list[str], tmp_path: Path) -> None:
    assert train(name, *SIZES, *more, "--steps=2", f"--out={tmp_path / 'run'}") == 0
    out = tmp_path / "drawn.png"
    assert cli.main(["sample", str(tmp_path / "run"), "--steps", "1", "2", "4", "--labels", "3", f"--out={out}"]) == 0
    assert out.is_file()


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # as of loading, which `require_fit` ignores
@pytest.mark.parametrize("name", [name for name in STUDENTS if name != "add"])
def test_a_student_is_counted_without_being_built(name: str, teacher: Path) -> None:
    recipe = load_recipe(name)
    settings = recipe.settings_for("digits", teacher=str(teacher))
    weights = recipe.system(settings, digits().format).state_dict()
    with torch.device("meta"):  # where an error would leave the network uncounted
        counted = recipe.system(settings, digits().format).state_dict()
    assert {key: value.shape for key, value in counted.items()} == {key: value.shape for key, value in weights.items()}
    assert all(value.is_meta for value in counted.values())


def test_bad_input_is_one_sentence(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("rectified-flow", "--steps=1", "--label-drop=0", f"--out={tmp_path / 'fast'}", *SIZES) == 0
    for arguments, said in {
        ("consistency-distillation",): "--teacher must be a run of a recipe with a diffusion transformer, and none",
        ("mean-flow", f"--teacher={tmp_path / 'none'}"): "--teacher: ",
        ("mean-flow", f"--teacher={tmp_path / 'fast'}"): "time_scale must be at most 10",
        (
            "mean-flow",
            f"--teacher={teacher}",
            "--dataset=photographs",
            "--size=8",
        ): "--teacher must be of images of shape",
        ("mean-flow", f"--teacher={teacher}", "--width=12"): "--width must be that of the teacher, 8, got 12",
        ("mean-flow", f"--teacher={teacher}", "--mixed-precision=fp16"): "mixed_precision must be no or bf16",
        ("mean-flow", "--guidance", "2"): "label_drop must be above 0 where guidance is learned",
        ("mean-flow", f"--teacher={teacher}", "--guidance", "3", "2"): "guidance must be one number, or two",
        ("shortcut", f"--teacher={tmp_path / 'fast'}", "--guidance", "2"): "trained without dropped labels",
        ("shortcut", f"--teacher={teacher}", "--grid=12"): "steps must be a power of two",
        ("progressive-distillation", f"--teacher={teacher}", "--grids", "4", "3"): "grids must halve from one to",
        ("consistency-training", f"--teacher={teacher}"): "--teacher is of consistency-distillation",
    }.items():
        capsys.readouterr()
        assert train(*arguments, "--steps=1", f"--out={tmp_path / 'x'}") == 2
        found = capsys.readouterr().err
        assert said in found and found.count("\n") == 1, found


def test_guidance_that_is_baked_in_is_not_asked_for_again(teacher: Path) -> None:
    recipe = load_recipe("mean-flow")

    def student(*guidance: float) -> Any:
        return build(recipe, recipe.settings_for("digits", teacher=str(teacher), guidance=guidance), digits().format)

    with pytest.raises(ValueError, match="guidance must be left out for a few-step model, which has 2 baked in, got 3"):
        student(2.0).options(guidance=3.0)
    assert student(1.0, 4.0).options(guidance=3.0)["guidance"] == 3
    with pytest.raises(ValueError, match=r"guidance must lie in \[1, 4\].*got 5"):
        student(1.0, 4.0).options(guidance=5.0)
    with pytest.raises(ValueError, match="drawn by euler, ddim or consistency, got 'heun'"):
        student(1.0).options(sampler="heun")

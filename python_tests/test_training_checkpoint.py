"""Checkpoints: complete or not there, and refused in a sentence when they are not what was written."""

import json
import os
import shutil

import pytest
import torch
from torch import nn

from visgen_fast.errors import UserError
from visgen_fast.training import checkpoint, disk, optimizer_state


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"a": torch.full((3,), value), "b.c": torch.full((2, 2), value).t()} for name in checkpoint.PARTS}


def write(folder, step: int, keep: int = 3):
    state = {"recipe": "r", "settings": {}, "images": {}, "ranks": 1}
    return checkpoint.write(folder, step, parts(float(step)), state, frozen={}, keep=keep)


class Killed(BaseException):
    """Stands for the process's death: nothing in the code under test may catch it."""


def kill_at(monkeypatch, count: int) -> None:
    """Every call by which `write` touches the disk dies, once `count` of them have gone through."""
    made = 0

    def dying(original):
        def call(*arguments, **options):
            nonlocal made
            made += 1
            if made > count:
                raise Killed
            return original(*arguments, **options)

        return call

    for module, name in (
        (os, "fsync"),
        (os, "rename"),
        (os, "mkdir"),
        (os, "rmdir"),
        (os, "unlink"),
        (shutil, "rmtree"),
        (disk, "save_file"),
        (checkpoint, "sha256_of"),
    ):
        monkeypatch.setattr(module, name, dying(getattr(module, name)))


def test_killed_at_any_point_of_the_writing_a_complete_checkpoint_is_left_and_writing_goes_on(tmp_path, monkeypatch):
    survived = False
    count = 0
    while not survived:
        folder = tmp_path / str(count)
        write(folder, 1, keep=1)
        with monkeypatch.context() as patch:
            kill_at(patch, count)
            try:
                write(folder, 2, keep=1)
                survived = True
            except Killed:
                count += 1
        saved = checkpoint.read(folder)
        assert saved.state["step"] in (1, 2)
        for path in checkpoint.checkpoints(folder):
            step = checkpoint.read(path).state["step"]
            for part in checkpoint.PARTS:
                assert torch.equal(checkpoint.read(path).tensors(part)["a"], torch.full((3,), float(step)))
        write(folder, 3, keep=1)
        assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    assert count > 10


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (1, 2, 10, 99_999_999, 100_000_000):
        write(tmp_path, step, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-99999999", "step-100000000"]
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_in_a_checkpoint_is_pickled(tmp_path):
    path = write(tmp_path, 1)
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".safetensors", ".safetensors", ".safetensors"]
    assert json.loads((path / "state.json").read_text())["recipe"] == "r"
    assert all(int.from_bytes(file.read_bytes()[:8], "little") < 10_000 for file in path.glob("*.safetensors"))


@pytest.mark.parametrize("part", checkpoint.PARTS)
@pytest.mark.parametrize("damage", ["truncated", "one byte changed", "removed"])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, part, damage):
    path = write(tmp_path, 1)
    file = path / f"{part}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content[:-3] if damage == "truncated" else content)
    with pytest.raises(UserError, match=f"damaged.*{part}"):
        checkpoint.read(path).tensors(part)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "holds no checkpoint"),
        ("{", "damaged"),
        ("[1]", "not a checkpoint"),
        ('{"format": "x"}', "not a checkpoint"),
    ],
)
def test_a_foreign_folder_is_refused_in_a_sentence(tmp_path, content, complaint):
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(UserError, match=complaint):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *(
            {name: value}
            for name in ("step", "settings", "images", "sha256", "frozen", "ranks")
            for value in (None, "x", [])
        ),
        *({name: ...} for name in ("step", "settings", "images", "sha256", "frozen", "ranks")),
        {"step": True},
        {"step": 2.0},
        {"frozen": {"features": "../../../etc/passwd"}},
        {"frozen": {"features": 3}},
    ],
    ids=str,
)
def test_a_state_of_wrong_types_or_without_a_key_is_refused_in_a_sentence(tmp_path, change):
    path = write(tmp_path, 1)
    state = {**json.loads((path / "state.json").read_text()), **change}
    (path / "state.json").write_text(json.dumps({key: value for key, value in state.items() if value is not ...}))
    with pytest.raises(UserError, match=f"damaged: state.json (has no '{next(iter(change))}'|names its frozen)"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, "", "\ud800", "\0", '{"step": 1' + "0" * 5000 + "}"],
    ids=["nested lists", "nested objects", "nothing", "no text", "NUL", "a number of 5000 digits"],
)
def test_a_state_that_is_no_json_is_refused_in_a_sentence(tmp_path, content):
    path = write(tmp_path, 1)
    (path / "state.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="damaged: state.json cannot be read"):
        checkpoint.read(path)


def test_a_state_that_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    path = write(tmp_path, 1)
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(UserError, match="damaged: state.json is not a file"):
        checkpoint.read(path)


def test_values_of_a_state_are_asked_for_by_their_type(tmp_path):
    saved = checkpoint.read(write(tmp_path, 1))
    assert saved.value("recipe", str) == "r"
    for name, kind in {"recipe": int, "nothing": str}.items():
        with pytest.raises(UserError, match=f"damaged: state.json has no '{name}' of type {kind.__name__}"):
            saved.value(name, kind)
    with pytest.raises(UserError, match="damaged: state.json describes no images"):
        _ = saved.images


def test_a_checkpoint_of_an_earlier_format_is_refused_in_a_sentence(tmp_path):
    path = write(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": "visgen_fast checkpoint 1"}))
    with pytest.raises(
        UserError, match="this version of visgen-fast can read: it is of format 'visgen_fast checkpoint 1'"
    ):
        checkpoint.read(path)


@pytest.mark.parametrize("damaged", ["weights.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_refused_with_the_name_of_the_newest_intact_one(tmp_path, damaged):
    paths = [write(tmp_path, step, keep=4) for step in (1, 2, 3, 4)]
    for path in paths[2:]:
        (path / damaged).write_bytes((path / damaged).read_bytes()[:-9])
    with pytest.raises(UserError) as refused:
        checkpoint.read(tmp_path).tensors("weights")
    assert f"the checkpoint {paths[3]} is damaged: " in str(refused.value)
    way_out = f"; {paths[1]} is intact: name that one, or remove the damaged one to go on from there"
    assert str(refused.value).endswith(way_out)
    for path in paths[:2]:
        (path / "average.safetensors").unlink()
    with pytest.raises(UserError, match=r"damaged: [^;]*$"):
        checkpoint.read(tmp_path).tensors("weights")


def test_tied_weights_are_written_under_each_of_their_names(tmp_path):
    tied = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    tied["b"].weight = tied["a"].weight
    tensors = tied.state_dict()
    state = {"settings": {}, "images": {}, "ranks": 1}
    path = checkpoint.write(tmp_path, 1, dict.fromkeys(checkpoint.PARTS, tensors), state, frozen={}, keep=1)
    read = checkpoint.read(path).tensors("weights")
    assert torch.equal(read["a.weight"], tensors["a.weight"]) and torch.equal(read["b.weight"], tensors["a.weight"])


def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path):
    path = write(tmp_path, 1)
    with pytest.raises(UserError, match="another network"):
        checkpoint.read(path).load_into(nn.Linear(2, 2), "weights")


def test_an_optimizer_goes_on_from_its_tensors_as_if_it_had_never_stopped():
    torch.manual_seed(0)
    inputs = torch.randn(4, 8, 5)

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        module[2].bias.requires_grad_(False)
        return module, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, batches: torch.Tensor) -> None:
        for batch in batches:
            module(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    straight, its_optimizer = make()
    train(straight, its_optimizer, inputs)

    first, first_optimizer = make()
    train(first, first_optimizer, inputs[:2])
    tensors = {name: tensor.clone() for name, tensor in optimizer_state.tensors([first_optimizer], first).items()}
    assert "0.weight.exp_avg_sq" in tensors and not any(name.startswith("2.bias") for name in tensors)
    second, second_optimizer = make()
    second.load_state_dict(first.state_dict())
    optimizer_state.load([second_optimizer], second, tensors)
    train(second, second_optimizer, inputs[2:])
    for expected, got in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(expected, got)

"""Expert denoisers: samples are routed by their noise, forked runs begin as what they were forked from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from visgen_fast import cli, ops
from visgen_fast.data.images import digits
from visgen_fast.data.order import Batch
from visgen_fast.models import Experts
from visgen_fast.nn.conditions import Condition
from visgen_fast.recipes import expert_denoisers
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.experts import ExpertsSystem
from visgen_fast.training.system import players_of

TINY = [
    *("--dataset=digits", "--batch-size=4", "--device=cpu", "--width=8", "--depth=1", "--heads=1"),
    *("--sampling-steps=2", "--learning-rate=0.01", "--warmup-steps=0", "--lr-schedule=constant"),
]


class Says(nn.Module):
    """A network that answers with its own number, times what it is told of the sample."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.calls = number, 0

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | Condition | None) -> Tensor:
        self.calls += 1
        told = condition.pooled[:, 0] if isinstance(condition, Condition) else condition
        return self.number * x_t + t[:, None] + (0 if told is None else told[:, None])


def train(*arguments: str) -> None:
    assert cli.main(["train", *arguments, *TINY]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["train", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `edm`, and the runs `halves` and `quarters` that were forked from it."""
    folder = tmp_path_factory.mktemp("runs")
    train("edm", "--steps=3", f"--out={folder / 'edm'}")
    train("expert-denoisers", "--steps=2", f"--shared={folder / 'edm'}", f"--out={folder / 'halves'}")
    edges = ["--edges", "0.25", "0.5", "0.75"]
    train("expert-denoisers", "--steps=1", f"--shared={folder / 'halves'}", f"--out={folder / 'quarters'}", *edges)
    return folder


@pytest.mark.parametrize("kind", ["labels", "condition", "nothing"])
def test_each_sample_is_seen_by_the_expert_of_its_interval(kind: str) -> None:
    model = Experts([Says(1), Says(10), Says(100)], [0.25, 0.5])
    t = torch.tensor([0.9, 0.0, 0.25, 0.3, 0.5, 0.51, 1.0])
    x, labels = torch.randn(7, 3), torch.arange(7)
    condition = {"labels": labels, "condition": Condition(pooled=labels[:, None].float()), "nothing": None}[kind]
    numbers = torch.tensor([100, 1, 1, 10, 10, 100, 100])
    expected = numbers[:, None] * x + t[:, None] + (0 if kind == "nothing" else labels[:, None])
    assert torch.equal(model(x, t, condition), expected)
    assert [expert.calls for expert in model.experts] == [1, 1, 1]


def test_samples_of_one_interval_take_one_call_of_one_expert() -> None:
    model = Experts([Says(1), Says(2)], [0.5])
    x = torch.randn(5, 3)
    assert torch.equal(model(x, torch.full((5,), 0.7), None), 2 * x + 0.7)
    assert model(x[:0], torch.ones(0), None).shape == (0, 3)
    assert [expert.calls for expert in model.experts] == [1, 1]


@pytest.mark.parametrize(
    ("edges", "said"), [([0.5], "edges must be one fewer than the 3 experts, got 1"), ([0.5, 0.5], "edges must rise")]
)
def test_edges_that_do_not_fit_are_refused(edges: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Experts([Says(1), Says(2), Says(3)], edges)


def small(*edges: float) -> ExpertsSystem:
    torch.manual_seed(0)
    settings = expert_denoisers.Settings(width=8, depth=1, heads=1, edges=edges)
    return expert_denoisers.system(settings, digits().format)


def batch() -> Batch:
    images, labels, _ = digits().read(range(16))
    return Batch(images, labels, ops.derive_seeds(0, torch.arange(16)), 0, (), torch.arange(16))


def test_each_expert_learns_at_the_times_of_its_interval_and_changes_no_other() -> None:
    system, told = small(0.3, 0.8), []
    for expert in system.prior.model.experts:
        expert.register_forward_pre_hook(lambda _, given: told.append(given[1]))
    for place, player in enumerate(players_of(system)):
        player.loss(batch()).mean().backward()
        assert all(parameter.grad is not None for parameter in player.parameters)
        touched = [any(p.grad is not None for p in expert.parameters()) for expert in system.prior.model.experts]
        assert touched == [number <= place for number in range(3)]
    edges = (0.0, *system.prior.model.edges, 1.0)
    for low, high, times in zip(edges, edges[1:], told, strict=False):
        assert low <= times.min() < times.max() <= high + 1e-6
    shares = system.prior.objective.times.cdf(torch.tensor(system.prior.model.edges))
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.8]), rtol=0, atol=1e-5)


def test_one_expert_alone_is_the_shared_objective() -> None:
    """With one interval, the loss is the system's whole objective: same times, same noise."""
    system = small()
    whole = system.prior.loss(batch().images, system.told(batch().labels, batch().seeds), batch().seeds)
    torch.testing.assert_close(system(batch()), whole)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    seeds = ops.derive_seeds(1, torch.arange(4))
    return ops.gaussian(seeds, (1, 8, 8)), torch.tensor([0.05, 0.4, 0.6, 0.95]), torch.arange(4)


def test_a_forked_run_begins_with_the_shared_run_s_outputs_bit_for_bit(runs: Path) -> None:
    shared = load_system(runs / "edm")
    settings = expert_denoisers.Settings(width=8, depth=1, heads=1, shared=str(runs / "edm"), edges=(0.2, 0.6))
    forked = expert_denoisers.system(settings, digits().format).eval()
    x, times, labels = inputs()
    for time in times:
        t = time.expand(4)
        assert torch.equal(forked.prior.model(x, t, labels), shared.prior.model(x, t, labels))
    seeds = ops.derive_seeds(2, torch.arange(4))
    assert torch.equal(forked.sample(labels, seeds, steps=3), shared.sample(labels, seeds, steps=3))


def test_a_fork_of_a_fork_begins_with_the_expert_that_had_its_noise(runs: Path) -> None:
    halves = load_system(runs / "halves").prior.model
    assert not torch.equal(halves.experts[0].embed_label.weight, halves.experts[1].embed_label.weight)
    options = {"shared": str(runs / "halves"), "edges": (0.25, 0.5, 0.75)}
    settings = expert_denoisers.Settings(width=8, depth=1, heads=1, **options)
    quarters = expert_denoisers.system(settings, digits().format).prior.model
    for place, expert in enumerate(quarters.experts):
        parent = halves.experts[place // 2].state_dict()
        assert all(torch.equal(tensor, parent[name]) for name, tensor in expert.state_dict().items())
    assert quarters.edges[1] == halves.edges[0]


def test_a_forked_run_goes_on_and_is_loaded_without_the_shared_one(runs: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("edm", "whole", "halves")}
    train("edm", "--steps=2", f"--out={folders['edm']}")
    forked = ["expert-denoisers", f"--shared={folders['edm']}"]
    train(*forked, "--steps=4", f"--out={folders['whole']}")
    train(*forked, "--steps=2", f"--out={folders['halves']}")
    folders["edm"].rename(tmp_path / "gone")
    train(*forked, "--steps=4", "--resume", f"--out={folders['halves']}")
    one, other = (load_system(folders[name]).state_dict() for name in ("whole", "halves"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    columns = (folders["whole"] / "losses.csv").read_text().splitlines()[0].split(",")
    assert columns[1] == "loss" and columns[-1] == "expert_2_loss"
    settings = json.loads((folders["whole"] / "settings.json").read_text())["settings"]
    assert settings["shared"] == str(folders["edm"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--width=16"], "--width must be that of the shared run, 8, got 16"),
        (["--width=8", "--heads=2"], "--heads must be that of the shared run, 1, got 2"),
        (["--width=8", "--heads=1", "--data-std=0.4"], "--data-std must be that of the shared run, 0.5, got 0.4"),
        (
            ["--width=8", "--heads=1", "--dataset=photographs"],
            "--shared must be a run on images of the same format, but",
        ),
        (["--width=8", "--heads=1", "--edges", "0.5", "0.5"], "edges must rise, got (0.5, 0.5)"),
        (["--width=8", "--heads=1", "--edges", "1"], "edges must lie in (0, 1), got (1.0,)"),
    ],
)
def test_runs_that_do_not_fit_are_one_sentence(
    runs: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["expert-denoisers", "--dataset=digits", "--depth=1", "--steps=1", f"--shared={runs / 'edm'}"]
    assert said in refused(capsys, *command, f"--out={tmp_path / 'x'}", *options)


def test_a_run_of_another_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("rectified-flow", "--steps=1", f"--out={tmp_path / 'flow'}")
    said = refused(capsys, "expert-denoisers", *TINY, f"--shared={tmp_path / 'flow'}", f"--out={tmp_path / 'x'}")
    assert "--shared must be a run of the recipe edm, but" in said and "is of rectified-flow" in said
    said = refused(capsys, "expert-denoisers", *TINY, f"--shared={tmp_path / 'no'}", f"--out={tmp_path / 'x'}")
    assert "--shared: " in said and "holds no checkpoint" in said

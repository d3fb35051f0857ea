"""Recipes of paths between two ends: they train, go both ways, measure, and refuse in a sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_fashion_mnist
from mistakes import mistake

from visgen_fast import cli, ops
from visgen_fast.recipes.runs import load_system

SHORT = ["--device=cpu", "--batch-size=16", "--steps=3", "--width=12", "--depth=1", "--heads=1", "--sample-every=0"]
SHORT += ["--sampling-steps=3"]
RUNS = {"noise": [], "classes": ["--classes", "3", "8"], "images": ["--endpoint=fashion-mnist", "--size=8"]}


@pytest.fixture(scope="module", autouse=True)
def clothing(tmp_path_factory) -> Iterator[None]:
    """Images in the place of Fashion-MNIST, which need not be installed."""
    folder, random = tmp_path_factory.mktemp("clothing"), np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_fashion_mnist(folder, random.integers(0, 256, (40, 28, 28)), np.arange(40) % 10, zipped=False, part=part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visgen_fast.data.idx.FASHION_MNIST_FOLDER", folder)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    found = {}
    for name, options in RUNS.items():
        found[name] = tmp_path_factory.mktemp("runs") / name
        assert cli.main(["train", "ot-flow", *SHORT, *options, f"--out={found[name]}"]) == 0
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_path_is_measured_and_followed_both_ways(name, runs, tmp_path):
    measures = json.loads((runs[name] / "metrics.json").read_text())
    assert list(measures) == ["path_energy", "optimal_cost", "start_distance", "end_distance"]
    assert all(value >= 0 for value in measures.values())
    system = load_system(runs[name])
    seeds, labels = ops.derive_seeds(0, torch.arange(3)), torch.tensor([3, 3, 3])
    there = system.sample(labels, seeds, direction="forward")
    back = system.sample(labels, seeds, guidance=1.0)
    assert there.shape == back.shape == (3, 1, 8, 8) and not torch.equal(there, back)
    assert torch.equal(system.sample(labels[1:2], seeds[1:2], direction="forward")[0], there[1])
    options = ["--labels=3", "--count-per-class=2", "--direction=forward", f"--out={tmp_path / 'a.png'}"]
    assert cli.main(["sample", str(runs[name]), *options, "--device=cpu"]) == 0
    options = ["--pictures=9", f"--out={tmp_path}", "--device=cpu"]
    assert cli.main(["evaluate", str(runs[name]), *options]) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["measures"].keys() == measures.keys()


def test_the_ends_are_what_was_asked_for(runs):
    seeds = torch.arange(50)
    noise = load_system(runs["noise"]).end.draw(seeds)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    system = load_system(runs["classes"])
    own, other = system.start.images, system.end.images
    assert {int(label) for label in own.read(range(len(own)))[1]} == {3}
    assert {int(label) for label in other.read(range(len(other)))[1]} == {8}
    everything = own.read(range(len(own)))[0] / 127.5 - 1
    assert all((everything == one).flatten(1).all(1).any() for one in system.start.draw(seeds[:5], torch.full((5,), 3)))
    with pytest.raises(ValueError, match="there is no image of class 4 to begin with"):
        system.sample(torch.tensor([4]), seeds[:1], direction="forward")


def test_what_does_not_fit_gets_a_sentence(runs, tmp_path, capsys):
    train = ["train", "ot-flow", *SHORT, f"--out={tmp_path / 'run'}"]
    assert "both ends must have images of one shape, got [1, 8, 8] and [3, 8, 8]" in mistake(
        capsys, *train, "--endpoint=photographs", "--size=8"
    )
    assert "--classes must be two classes, without --endpoint, got 3" in mistake(capsys, *train, "--classes", "3")
    assert "--classes: there is no class 'three'; there are 0, 1" in mistake(capsys, *train, "--classes", "three", "4")
    assert not (tmp_path / "run").exists()
    sample = ["sample", runs["noise"], "--device=cpu", f"--out={tmp_path / 'a.png'}"]
    assert "direction must be forward or backward, got 'up'" in mistake(capsys, *sample, "--direction=up")
    assert "sampler is no option of a path between two ends, which has steps, guidance, interval, direction" in mistake(
        capsys, *sample, "--sampler=heun"
    )

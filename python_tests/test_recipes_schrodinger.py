"""Recipes of Schrödinger bridges: networks in turns, caches that are drawn again, runs that go on bit for bit."""

from pathlib import Path

import pytest
import torch
from mistakes import mistake
from safetensors.torch import load_file

from visgen_fast import cli, ops
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system

SHORT = ["--device=cpu", "--batch-size=8", "--width=12", "--depth=1", "--heads=1", "--sample-every=0", "--cache=6"]
SHORT += ["--sampling-steps=3", "--turn-steps=4", "--refresh=2", "--lr-schedule=constant", "--checkpoint-every=0"]
RUNS = {"dsb-matching": [], "dsb": [], "dsb --target=flow": [], "dsb --target=terminal": ["--classes", "3", "8"]}
STOPS = {"dsb": (4, 6, 9)}  # at a turn's end, at a cache's, within a cache of the third turn; else in the second's


def train(name: str, steps: int, out: Path, *more: str) -> None:
    command = ["train", *name.split(), *SHORT, *RUNS[name], f"--steps={steps}", f"--out={out}", *more]
    assert cli.main(command) == 0


def weights_of(out: Path) -> dict:
    (folder,) = sorted((out / "checkpoints").iterdir())[-1:]
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_ends_within_a_turn_and_a_cache_goes_on_bit_for_bit(name, tmp_path):
    train(name, 11, tmp_path / "once")
    for steps in (*STOPS.get(name, (7,)), 11):
        train(name, steps, tmp_path / "twice", "--resume")
    once, twice = (weights_of(tmp_path / run) for run in ("once", "twice"))
    assert once.keys() == twice.keys() and len(once) >= 3
    for file in once:
        assert once[file].keys() == twice[file].keys()
        assert all(torch.equal(once[file][key], twice[file][key]) for key in once[file])
    assert not any("cache" in key for file in once.values() for key in file)
    system = load_system(tmp_path / "once")
    labels, seeds = torch.tensor([3, 3]), ops.derive_seeds(0, torch.arange(2))
    drawn = [system.sample(labels, seeds, direction=direction) for direction in ("forward", "backward")]
    assert drawn[0].shape == (2, 1, 8, 8) and not torch.equal(*drawn)
    assert {"path_energy", "end_distance"} <= set((tmp_path / "once" / "metrics.json").read_text().split('"'))


def system_of(name, disturbed=True, **chosen):
    recipe = load_recipe(name)
    options = {"width": 12, "depth": 1, "heads": 1, "cache": 6, "sampling_steps": 3, "turn_steps": 4, "refresh": 2}
    settings = recipe.settings_for("digits", **{**options, **chosen})
    system = build(recipe, settings, recipe.pictures(settings).format)
    torch.manual_seed(0)
    for parameter in system.parameters():
        parameter.data += 0.05 * disturbed * torch.randn_like(parameter)
    return system


def test_a_bridge_begins_as_a_flow_that_is_trained(tmp_path, capsys):
    sizes, flow = SHORT[:6], tmp_path / "flow"
    assert cli.main(["train", "ot-flow", *sizes, "--sampling-steps=3", "--steps=3", f"--out={flow}"]) == 0
    velocity = load_system(flow).model
    system = system_of("dsb", target="flow", flow=str(flow), disturbed=False, cache=50)
    x, labels, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 8]), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        drift = velocity(x, t, labels)
        assert drift.abs().max() > 1e-4 and torch.equal(system.forward_model(x, t, labels), drift)
        assert torch.equal(system.backward_model(x, t, labels), -drift)
    system.before_step(0)
    path = system.drawn["path"]
    with torch.no_grad():
        gone = path[:, 1] - path[:, 0] - velocity(path[:, 0], torch.zeros(50), system.drawn["labels"]) / 3
    assert abs(gone.std() - 3**-0.5) < 0.02  # the noise of a step is all that is left
    train("dsb-matching", 3, tmp_path / "bridge", f"--flow={flow}")
    flow.rename(tmp_path / "elsewhere")
    train("dsb-matching", 5, tmp_path / "bridge", f"--flow={flow}", "--resume")
    capsys.readouterr()
    train("dsb-matching", 5, tmp_path / "once", f"--flow={tmp_path / 'bridge'}", "--log-every=1")
    said = "".join(capsys.readouterr())
    assert "step 5/5, loss " in said and "loss nan" not in said  # that of the network that learns
    for options, sentence in (
        ([f"--flow={flow}"], "--flow: "),
        (["--flow=elsewhere", "--target=terminal"], "of which the networks are terminal targets"),
        (["--flow=elsewhere", "--width=16"], "--flow must be a run with a network of the same sizes and classes, got"),
    ):
        told = [option.replace("elsewhere", str(tmp_path / "elsewhere")) for option in options]
        assert sentence in mistake(capsys, "train", "dsb", *SHORT, *told, f"--out={tmp_path / 'run'}")


@pytest.mark.parametrize("name", ["dsb", "dsb-matching"])
def test_the_networks_learn_in_turns_from_what_the_other_one_draws(name):
    system = system_of(name)
    backward, forward = system.players()
    assert [[player.acts(step) for step in range(10)] for player in (backward, forward)] == [
        [step // 4 % 2 == place for step in range(10)] for place in (0, 1)
    ]
    drawn = {}
    for step in (0, 1, 2, 4, 5, 8):
        system.before_step(step)
        drawn[step] = {key: value.clone() for key, value in system.drawn.items()}
    same = {(a, b): all(torch.equal(drawn[a][key], drawn[b][key]) for key in drawn[a]) for a in drawn for b in drawn}
    assert same[0, 1] and same[4, 5] and not same[0, 2] and not same[4, 8]
    for parameter in system.forward_model.parameters():  # it drew nothing at step 4, and all at step 8
        parameter.data.zero_()
    for step, changes in ((4, False), (8, True)):
        system.before_step(0)
        system.before_step(step)
        again = system.drawn
        assert all(torch.equal(again[key], drawn[step][key]) for key in again) != changes


def test_the_first_trajectories_are_brownian_motion_from_the_images():
    system = system_of("dsb", cache=400, sigma=0.5, sampling_steps=4)
    system.before_step(0)
    path = system.drawn["path"]
    moved = path.diff(dim=1)
    assert path.shape == (400, 5, 1, 8, 8) and abs(moved.std() - 0.25) < 0.005 and moved.mean().abs() < 0.005
    images = system.start.images.read(range(len(system.start.images)))[0] / 127.5 - 1
    assert all((images == one).flatten(1).all(1).any() for one in path[:5, 0])


def test_what_does_not_fit_gets_a_sentence(tmp_path, capsys):
    for option, sentence in (
        ("--refresh=3", "refresh must divide turn_steps 4, got 3"),
        ("--sigma=0", "sigma must lie in (0, 1000), got 0"),
        ("--sigma=-1", "sigma must lie in"),
        ("--target=next", "target"),
    ):
        try:
            code = cli.main(["train", "dsb", *SHORT, option, "--steps=1", f"--out={tmp_path / 'run'}"])
        except SystemExit as end:
            code = end.code
        assert code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

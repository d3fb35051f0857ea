"""The recipe of an energy that chains teach: it trains, goes on bit for bit without its chains, draws, and refuses."""

import json

import pytest
import torch
from mistakes import mistake
from safetensors.torch import load_file

from visgen_fast import cli, ops
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.contrastive import NoisyEnergy

SHORT = ["--device=cpu", "--batch-size=8", "--width=8", "--depth=1", "--heads=1", "--sample-every=0", "--per-class=2"]
SHORT += ["--chain-steps=2", "--buffer-steps=3", "--refresh=4", "--lr-schedule=constant", "--checkpoint-every=0"]


def train(steps, out):
    command = ["train", "contrastive-energy", *SHORT, f"--steps={steps}", f"--out={out}", "--resume"]
    assert cli.main(command) == 0
    (folder,) = sorted((out / "checkpoints").iterdir())[-1:]
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "energy"
    train(9, out)
    return out


def test_a_run_that_stops_within_a_buffer_s_time_goes_on_bit_for_bit(run, tmp_path):
    once = train(9, run)  # it is trained, and is read again
    for steps in (4, 6, 9):
        twice = train(steps, tmp_path)
    assert once.keys() == twice.keys()
    for file in once:
        assert once[file].keys() == twice[file].keys()
        assert all(torch.equal(once[file][key], twice[file][key]) for key in once[file])
    weights = once["weights.safetensors"]
    assert {key.split(".")[0] for key in weights} == {"energy", "buffer"}
    assert all(key.startswith(("energy.", "buffer.former.")) for key in weights)
    changed = [key for key in weights if key.startswith("energy.") and "linear" in key]
    assert any(not torch.equal(weights[key], weights[key.replace("energy.", "buffer.former.", 1)]) for key in changed)


def test_it_draws_and_measures_energies(run, tmp_path, capsys):
    found = json.loads((run / "metrics.json").read_text())
    assert list(found) == ["energy_of_images", "energy_of_samples"] and min(found.values()) > 0
    system = load_system(run)
    labels, seeds = torch.arange(3), ops.derive_seeds(0, torch.arange(3))
    drawn = system.sample(labels, seeds)
    assert drawn.shape == (3, 1, 8, 8) and torch.equal(system.sample(labels[1:2], seeds[1:2])[0], drawn[1])
    assert torch.equal(system.sample(labels, seeds, steps=5), drawn)  # 3 of the buffer and 2 of training
    assert not torch.equal(system.sample(labels, seeds, steps=1), drawn)
    sample = ["sample", run, "--labels=3", "--device=cpu", f"--out={tmp_path / 'a.png'}"]
    assert cli.main([str(word) for word in sample]) == 0
    assert "guidance is no option of an energy that was learned by contrast" in mistake(capsys, *sample, "--guidance=2")
    outliers = ["evaluate", str(run), "--outliers=noise", "--pictures=6", "--device=cpu", f"--out={tmp_path}"]
    assert cli.main(outliers) == 0
    assert "energy" in json.loads((tmp_path / "outliers.json").read_text())["auroc"]
    with pytest.raises(ValueError, match="ContrastiveSystem gives no likelihood of images"):
        system.bits(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), seeds[:1])


def test_cleaning_moves_an_image_to_the_mean_of_what_was_noised():
    """Of data N(0, 1 − w²) with noise of width w, whose h is (1 − w²)·x to first order in w²."""
    width = 0.05

    class Mean(torch.nn.Module):
        def forward(self, x, t, labels):
            return x * (1 - width)  # ½‖x − h‖²/w² is ½‖x‖² then, that of N(0, 1)

    x = torch.randn(2, 1, 4, 4)
    energy = NoisyEnergy(Mean(), width)
    assert torch.allclose(energy(x, None), 0.5 * x.square().flatten(1).sum(1), rtol=1e-4)
    assert torch.allclose(energy.cleaned(x, None), (1 - width**2) * x, atol=1e-6)

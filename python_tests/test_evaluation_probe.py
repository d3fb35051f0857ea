"""What latents are worth downstream: a linear classifier on them, of any first stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mistakes import mistake

from visgen_fast import cli
from visgen_fast.evaluation.probe import features_of, linear_probe

SHORT = ["--device=cpu", "--dataset=digits", "--batch-size=16", "--sample-every=0", "--warmup-steps=0", "--steps=2"]
RUNS = {
    "kl-autoencoder": ["--widths", "4", "--dimensions=3"],
    "vae": ["--hidden", "16", "--latents=6"],
    "vq-vae-2": ["--widths", "4", "--codes=16", "--dimensions=4", "--blocks=0"],
    "classifier": ["--widths", "4"],
}


def test_classes_that_a_plane_parts_are_told_apart_and_noise_is_not():
    torch.manual_seed(0)
    features, labels = torch.randn(400, 5), torch.arange(400) % 2
    features[:, 2] = (2.0 * labels - 1) * (1 + torch.rand(400)) * 1e-3  # of a small scale
    found = linear_probe(features[:300], labels[:300], features[300:], labels[300:])
    assert found.accuracy == 1 and found.chance == 0.5 and (found.fitted, found.measured) == (300, 100)
    # Wilson's interval of 100 of 100.
    assert found.low == pytest.approx(0.9630, abs=1e-4) and found.high == 1
    noise = linear_probe(torch.randn(300, 5), labels[:300], torch.randn(100, 5), labels[300:])
    assert noise.low < 0.5 < noise.high
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe(features, labels * 0, features, labels)


def test_grids_with_many_latents_are_averaged_down():
    assert features_of(torch.randn(2, 4, 8, 8)).shape == (2, 256)
    large = torch.randn(2, 16, 32, 32)
    found = features_of(large)
    assert found.shape == (2, 16 * 16 * 16)
    torch.testing.assert_close(found.view(2, 16, 16, 16), torch.nn.functional.avg_pool2d(large, 2))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, options in RUNS.items():
        assert cli.main(["train", name, *SHORT, *options, f"--out={folder / name}"]) == 0
    return folder


@pytest.mark.parametrize(("kind", "features"), [("kl-autoencoder", 3 * 16), ("vae", 6)])
def test_the_latents_of_a_run_are_probed(kind, features, runs, capsys):
    assert cli.main(["evaluate", str(runs / kind), "--probe", "--device=cpu"]) == 0
    found = json.loads((runs / kind / "probe.json").read_text())
    assert found["recipe"] == kind and found["features"] == features and found["fitted"] + found["measured"] == 1797
    # Hardly trained encoders are random ones, which tell digits apart.
    assert found["chance"] < 0.2 < found["low"] < found["accuracy"] < found["high"]
    assert "held out" in capsys.readouterr().out


def test_what_has_no_grid_of_latents_is_refused_in_a_sentence(runs, capsys):
    assert "VQVAE2 has no single grid of latents" in mistake(capsys, "evaluate", runs / "vq-vae-2", "--probe")
    assert "--probe is for a tokenizer or an autoencoder, and the recipe classifier" in mistake(
        capsys, "evaluate", runs / "classifier", "--probe"
    )
    assert "--beam is for a measurement without --probe" in mistake(
        capsys, "evaluate", runs / "kl-autoencoder", "--probe", "--beam=2"
    )

"""Autoencoders of latent models: a grid of normal latents that turn with their images, ways past the convolutions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from torch import distributions
from torch.nn import functional as F

from visgen_fast import cli, ops
from visgen_fast.data.images import digits, to_range
from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.layers.shortcuts import DoublingShortcut, HalvingShortcut
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.kl_autoencoder import KLSystem, smaller
from visgen_fast.systems.tokenizer import ReconstructionLoss
from visgen_fast.tokenizers import FirstStage, KLAutoencoder
from visgen_fast.training import checkpoint

CPU = torch.device("cpu")
TINY = ["--device=cpu", "--dataset=digits", "--widths", "8", "--batch-size=16", "--steps=4", "--sample-every=0"]
TINY += ["--dimensions=3", "--warmup-steps=0"]
SIZES = {"channels": 1, "widths": (8,), "patch_size": 2, "blocks": 1}


def images(count: int = 6) -> torch.Tensor:
    return to_range(digits().pixels[:count])


def kl_autoencoder(weight: float = 1.0) -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(Encoder(dimensions=6, **SIZES), Decoder(dimensions=3, **SIZES), weight)


def test_the_divergence_is_that_of_the_image_over_its_values_and_latents_are_their_seed_s():
    tokenizer, shown = kl_autoencoder(2.0), images()
    seeds = ops.derive_seeds(0, torch.arange(6))
    found = tokenizer(shown, seeds)
    mean, log_variance = tokenizer.encoder(shown).chunk(2, 1)
    posterior = distributions.Normal(mean, (log_variance / 2).exp())
    kl = distributions.kl_divergence(posterior, distributions.Normal(torch.zeros(()), 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(found.quantized.loss.flatten(1).mean(1), 2 * kl / 64, rtol=1e-4, atol=1e-6)
    z = mean + (log_variance / 2).exp() * ops.gaussian(seeds, mean.shape[1:])
    torch.testing.assert_close(found.images, tokenizer.decoder(z))
    torch.testing.assert_close(tokenizer(shown).images, tokenizer.decoder(mean))
    torch.testing.assert_close(tokenizer.encode_latents(shown, seeds), z)
    alone = tokenizer.encode_latents(shown[4:5], seeds[4:5])
    torch.testing.assert_close(alone[0], z[4], rtol=1e-4, atol=1e-5)


def test_a_prior_models_draws_of_the_posterior():
    stage = FirstStage(kl_autoencoder(), (1, 8, 8))
    shown = images(2)[:1].expand(2, -1, -1, -1)
    first, second = stage.encode(shown, torch.tensor([1, 2]))
    assert stage.shape == (3, 4, 4) and not torch.allclose(first, second, atol=1e-3)


def moved_system(draws: list[float]) -> KLSystem:
    system = KLSystem(kl_autoencoder(), ReconstructionLoss("l1"), equivariance=True)
    system._draws = draws
    return system


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_moved_latents_are_compared_with_the_image_moved_alike(turns):
    system, shown = moved_system([0.3, 1.0, turns / 3, 1.0]), images()
    seeds = torch.arange(6)
    target, decoded, _ = system.reconstruct(shown, seeds)
    turned = shown.rot90(turns, (2, 3))
    assert target.shape == decoded.shape == (6, 1, 6, 6)  # 3 of 4 latents a side
    torch.testing.assert_close(target, F.interpolate(turned, (6, 6), mode="bilinear", antialias=True))
    latents = system.tokenizer.encode_latents(shown, seeds).rot90(turns, (2, 3))
    latents = F.interpolate(latents, (3, 3), mode="bilinear", antialias=True)
    torch.testing.assert_close(decoded, system.tokenizer.decoder(latents))


def test_of_the_other_steps_some_encode_small_images_and_most_what_there_is():
    shown, seeds = images(), torch.arange(6)
    small, decoded, _ = moved_system([0.7, 0.2, 1.0, 0.5]).reconstruct(shown, seeds)
    assert small.shape == decoded.shape == (6, 1, 4, 4)
    for draws in ([0.7, 0.3, 1.0, 0.5], [1.0] * 4):
        target, decoded, _ = moved_system(draws).reconstruct(shown, seeds)
        assert torch.equal(target, shown) and decoded.shape == shown.shape


def test_a_step_s_move_is_its_own_and_the_run_s():
    def moves(seed: int) -> list[list[float]]:
        system, found = KLSystem(kl_autoencoder(), ReconstructionLoss(), equivariance=True, seed=seed), []
        for step in range(400):
            system.before_step(step)
            found.append(system._draws)
        return found

    drawn = moves(0)
    assert drawn == moves(0) != moves(1)
    assert 0.4 < sum(step[0] <= 0.5 for step in drawn) / 400 < 0.6
    assert smaller(32) == list(range(8, 32)) and smaller(4) == [2, 3] and smaller(2) == [2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    options = ["--equivariance", "--shortcuts", "--widths", "4", "8", "--patch-size=1", "--adversarial=0.5"]
    assert cli.main(["train", "classifier", *TINY[:-2], "--steps=2", f"--out={folder / 'classifier'}"]) == 0
    options += ["--perceptual=1", f"--features={folder / 'classifier'}", "--checkpoint-every=1"]
    command = ["train", "kl-autoencoder", *TINY, *options, "--lr-schedule=constant"]
    assert cli.main([*command, f"--out={folder / 'straight'}"]) == 0
    assert cli.main([*command, "--steps=2", f"--out={folder / 'resumed'}"]) == 0
    assert cli.main([*command, f"--out={folder / 'resumed'}", "--resume"]) == 0
    return folder


def test_all_losses_together_train_and_resume_bit_for_bit(runs):
    ends = [runs / name / "checkpoints" / "step-00000004" for name in ("straight", "resumed")]
    for part in checkpoint.PARTS:
        assert len({(end / f"{part}.safetensors").read_bytes() for end in ends}) == 1
    found = json.loads((runs / "straight" / "metrics.json").read_text())
    assert found["kl"] > 0 and {"psnr", "turned_psnr", "rfid"} <= found.keys()
    assert "kl" in (runs / "straight" / "losses.csv").read_text().splitlines()[0]
    tokenizer = load_system(runs / "straight").tokenizer
    assert isinstance(tokenizer, KLAutoencoder) and tokenizer.encoder(images()).shape == (6, 6, 4, 4)


def test_wrong_use_is_one_sentence(tmp_path, capsys):
    command = ["train", "kl-autoencoder", *TINY, f"--out={tmp_path / 'x'}"]
    assert "widths must divide four times the one before, got (8, 12)" in mistake(
        capsys, *command, "--shortcuts", "--widths", "8", "12", "--patch-size=1"
    )
    said = mistake(capsys, *command, "--equivariance", "--adversarial=1", "--discriminator-layers=3")
    assert "discriminator_layers must halve images of 4 pixels at most 2 times" in said
    assert "mixed_precision must be no or bf16 with adversarial" in mistake(
        capsys, *command, "--adversarial=1", "--mixed-precision=fp16"
    )


def test_shortcuts_move_pixels_into_features_and_back():
    """Without its convolution a halving and a doubling are the authors' averages and copies."""
    x = torch.randn(2, 4, 6, 8)
    half = HalvingShortcut(torch.nn.Conv2d(4, 8, 3, stride=2, padding=1))
    twice = DoublingShortcut(torch.nn.Sequential(torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(8, 4, 1)), 4)
    for weight in (*half.parameters(), *twice.parameters()):
        torch.nn.init.zeros_(weight)
    found = half(x)
    squares = x.view(2, 4, 3, 2, 4, 2)
    # 4·4 values in 8 means: of the upper two of a square, and of the lower two.
    torch.testing.assert_close(found, squares.mean(5).transpose(2, 3).reshape(2, 8, 3, 4))
    again = twice(found)
    torch.testing.assert_close(again, squares.mean(5, keepdim=True).expand_as(squares).reshape(2, 4, 6, 8))

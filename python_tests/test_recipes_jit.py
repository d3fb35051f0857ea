"""The recipe jit: its objective is JiT's, and its prediction is the one that large patches need."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from visgen_fast import cli, ops
from visgen_fast.data.images import ImageFormat
from visgen_fast.diffusion import DiffusionObjective, LogitNormalTimes, RectifiedFlow
from visgen_fast.models.dit import DiT
from visgen_fast.recipes.jit import Settings, system
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build
from visgen_fast.systems.prior import PriorSystem

TINY = {"width": 8, "depth": 1, "heads": 2, "bottleneck": 4, "sampling_steps": 2, "noise_scale": 1.0}
IMAGES = ImageFormat(height=16, width=16, channels=1, class_names=("a", "b", "c"))


def made(**settings: object) -> PriorSystem:
    torch.manual_seed(0)
    return system(Settings(**{**TINY, "size": 16, "patch_size": 8, **settings}), IMAGES)


def test_the_loss_is_of_the_velocity_of_a_predicted_image() -> None:
    """v = (x̂ − x_t)/max(t, floor) up to the sign, for target and prediction (Li and He, 2025)."""
    built, t = made(), torch.tensor([0.01, 0.05, 0.2, 0.7, 1.0])
    torch.testing.assert_close(built.prior.objective.sample_weights(t), 1 / t.clamp_min(0.05) ** 2)
    assert built.prior.objective.prediction.name == "x" and built.prior.objective.loss.name == "velocity"
    seeds, labels, images = torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.rand(4, 1, 16, 16) * 2 - 1
    at = built.prior.objective.times(seeds).view(-1, 1, 1, 1)
    x_t = (1 - at) * images + at * ops.gaussian(seeds, (1, 16, 16))
    guess = torch.randn(4, 1, 16, 16)
    floor = at.clamp_min(0.05)
    expected = ((guess - x_t) / floor - (images - x_t) / floor).square().mean((1, 2, 3))
    torch.testing.assert_close(built.prior.objective(lambda *_: guess, images, labels, seeds), expected)


def test_the_weight_of_each_level_is_that_of_its_density() -> None:
    """Where t is above the floor, w(λ) = N(λ; −1.6, 1.6²)·(1 + e^{−λ/2})², up to a factor."""
    level = torch.linspace(-12, 5, 60, dtype=torch.float64)
    expected = torch.exp(-0.5 * ((level + 1.6) / 1.6) ** 2) * (1 + torch.exp(-level / 2)) ** 2
    ratio = made().prior.objective.implied_weight(level) / expected
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    assert not made().prior.objective.is_monotone()


def test_noise_of_another_scale_moves_the_levels() -> None:
    t = torch.linspace(0.1, 0.9, 9)
    doubled, plain = (made(noise_scale=scale).prior.objective.schedule.log_snr(t) for scale in (2.0, 1.0))
    torch.testing.assert_close(doubled - plain, torch.full_like(t, -2 * math.log(2)))


@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "photographs", "emoji", "folder"])
def test_the_defaults_fit_the_images_of_every_data_set(dataset: str) -> None:
    recipe = load_recipe("jit")
    settings = recipe.settings_for(dataset if dataset != "folder" else "some/folder")
    channels = 1 if dataset in ("digits", "fashion-mnist") else 3
    images = ImageFormat(height=settings.size, width=settings.size, channels=channels, class_names=("a", "b"))
    built = build(recipe, settings, images)
    pixels = channels * settings.patch_size**2
    assert settings.size == (8 if dataset == "digits" else 64)
    assert (dataset == "digits") or pixels > settings.width > settings.bottleneck
    assert built.prior.model.patch_size == settings.patch_size and built.prior.sampler.sampler == "heun"


def test_images_are_guided_in_the_interval_alone() -> None:
    """Of ten steps the first begins at 1, outside (0, 0.9); Heun's method calls the network twice, but in the last."""
    built, calls = made(guidance=3.0), []
    network = built.prior.model

    class Spied(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            calls.append((round(t[0].item(), 3), len(x)))
            return network(x, t, labels)

    built.prior.model = Spied()
    built.sample(torch.tensor([0, 1]), torch.arange(2), steps=10)
    assert [batch for _, batch in calls] == [2] * 2 + [4] * 17
    assert [t for t, _ in calls[:4]] == [1.0, 0.9, 0.9, 0.8] and calls[-1][0] == 0.1


def test_a_run_keeps_its_interval_and_a_wrong_one_is_a_sentence(tmp_path, capsys) -> None:
    tiny = ["--width=8", "--depth=1", "--heads=1", "--batch-size=4", "--steps=2", "--device=cpu", "--sampling-steps=2"]
    command = ["train", "jit", "--dataset=digits", *tiny]
    run = tmp_path / "run"
    assert cli.main([*command, f"--out={run}", "--guidance-interval", "0.1", "0.8"]) == 0
    kept = json.loads((run / "settings.json").read_text())["settings"]
    assert kept["guidance_interval"] == [0.1, 0.8] and (kept["size"], kept["patch_size"]) == (8, 4)
    assert cli.main([*command, f"--out={run}", "--guidance-interval", "0.1", "0.8", "--resume", "--steps=3"]) == 0
    capsys.readouterr()
    assert cli.main([*command, f"--out={tmp_path / 'other'}", "--guidance-interval", "0.8", "0.1"]) == 2
    assert "interval must be (low, high) with 0 ≤ low ≤ high ≤ 1, got (0.8, 0.1)" in capsys.readouterr().err
    for wrong in ((0.0, 0.5, 1.0), (0.5,), (0.0, "1"), 0.5):
        with pytest.raises(TypeError, match="guidance_interval must be of type"):
            Settings(guidance_interval=wrong)


def trained(prediction: str) -> float:
    """The error of the velocity after a short training on two images, of a patch larger than the network is wide."""
    torch.manual_seed(0)
    model = DiT(image_size=16, channels=1, patch_size=16, width=32, depth=1, heads=2, classes=1)
    objective = DiffusionObjective(
        RectifiedFlow(), prediction, LogitNormalTimes(0.8, 0.8), loss="velocity", smallest_time=0.05
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pair = torch.sign(ops.gaussian(torch.arange(2), (1, 16, 16))).repeat(32, 1, 1, 1)
    losses = []
    for step in range(250):
        loss = objective(model, pair, torch.zeros(64, dtype=torch.int64), 64 * step + torch.arange(64)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def test_a_network_narrower_than_its_patch_learns_the_image_and_not_the_noise() -> None:
    """Noise has 256 directions, of which 32 features hold 32: seven eighths of its variance stay an error."""
    assert trained("velocity") > 0.8 > 0.1 > trained("x")

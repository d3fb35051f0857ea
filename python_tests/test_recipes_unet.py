"""The recipes of diffusion models with a U-Net: ddpm, and vdm, whose loss is the bound that it reports."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from visgen_fast import cli, ops
from visgen_fast.data.images import ImageFormat, ImagesInMemory, digits
from visgen_fast.data.order import Batch
from visgen_fast.diffusion import ELBO, DiffusionObjective, DiscreteVP, LearnedVP, LowDiscrepancyTimes, UniformTimes
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.nn.class_condition import Labels
from visgen_fast.recipes import ddpm, vdm
from visgen_fast.recipes._unet import unet
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems import variational
from visgen_fast.systems.variational import VariationalSystem
from visgen_fast.tokenizers.first_stage import Pixels

TINY = [
    *("--dataset=digits", "--batch-size=8", "--device=cpu", "--width=8", "--depth=1", "--heads=1"),
    *("--sampling-steps=2", "--steps=2", "--learning-rate=0.02", "--warmup-steps=0"),
]
SPREAD, COUNT = 0.25, 8192


def of_parts(network: nn.Module, objective: DiffusionObjective, labels: Labels | None = None) -> VariationalSystem:
    prior = DiffusionPrior(network, objective, SamplerSettings(2, 1.0))
    return VariationalSystem(prior, Labels(1) if labels is None else labels, Pixels((1, 4, 4)))


class Exact(nn.Module):
    """The noise in x_t = α·x + σ·ε that is most likely, for x of N(0, SPREAD²)."""

    def __init__(self, schedule: LearnedVP) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t: Tensor, log_snr: Tensor, labels: Tensor) -> Tensor:
        signal, noise = (torch.sigmoid(sign * log_snr.double()).view(-1, 1, 1, 1) for sign in (1, -1))
        return (noise.sqrt() / (signal * SPREAD**2 + noise) * x_t).to(x_t.dtype)


@pytest.fixture(autouse=True)
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variational, "_MOST_CALLS", 16)


def gaussian_pixels() -> tuple[Tensor, Tensor]:
    """Pixels [COUNT, 1, 4, 4] of a Gaussian, rounded, and what −log₂ of their probability is, a pixel."""
    seeds = ops.derive_seeds(5, torch.arange(COUNT))
    pixels = ((SPREAD * ops.gaussian(seeds, (1, 4, 4), dtype=torch.float64) + 1) * 127.5).round().clamp(0, 255)
    x = pixels / 127.5 - 1
    edges = torch.stack((x - 1 / 255, x + 1 / 255)) / SPREAD
    low, high = torch.special.ndtr(edges)
    return pixels.byte(), -(high - low).log2().mean((1, 2, 3))


@pytest.mark.parametrize("log_snr_max", [7.0, 8.4])
def test_vdm_s_loss_and_what_it_reports_are_the_likelihood_where_the_network_is_perfect(log_snr_max: float) -> None:
    """Levels of less noise than two values of a pixel would know these apart.

    The reconstruction does not know that values near 0 are likelier, which costs ½·ln(1 + (ratio/SPREAD)²).
    """
    torch.manual_seed(0)
    pixels, exact = gaussian_pixels()
    ratio = math.exp(-log_snr_max / 2)
    exact = exact + 0.5 * math.log2(1 + (ratio / SPREAD) ** 2)
    schedule = LearnedVP(-8.0, log_snr_max, features=8, learn_ends=True)
    options = {"weight": ELBO(), "conditioning": "log_snr"}
    objective = DiffusionObjective(schedule, "epsilon", LowDiscrepancyTimes(UniformTimes()), **options)
    system = of_parts(Exact(schedule), objective)
    labels, positions = torch.zeros(COUNT, dtype=torch.int64), torch.arange(COUNT)
    losses = system(Batch(pixels, labels, ops.derive_seeds(6, positions), 0, (), positions))
    assert losses.mean().item() == pytest.approx(exact.mean().item(), abs=0.05)
    images = ImagesInMemory(pixels, labels, ["all"])
    found = system.evaluate(images, device=torch.device("cpu"))
    assert found["bits_per_dimension"] == pytest.approx(exact.mean().item(), abs=0.02)
    entropy = math.log2(ratio * 127.5 * math.sqrt(2 * math.pi * math.e))  # of the noise, in steps of 2/255
    assert found["reconstruction_bits"] == pytest.approx(entropy, abs=0.02)
    assert 0 < found["prior_bits"] < 1e-3
    worse = of_parts(nn.Sequential(), objective)
    worse.prior.model.forward = lambda x_t, t, labels: system.prior.model(x_t, t, labels) + 0.3  # type: ignore[method-assign]
    higher = worse.evaluate(images, device=torch.device("cpu"))
    expected = 0.09 * (8 + log_snr_max) / (2 * math.log(2))
    assert higher["bits_per_dimension"] - found["bits_per_dimension"] == pytest.approx(expected, rel=0.05)


def test_the_ends_of_vdm_s_schedule_go_where_the_bound_is_lower() -> None:
    """From a prior that knows too much and a reconstruction that is far too coarse, both ends move outwards."""
    torch.manual_seed(0)
    pixels, _ = gaussian_pixels()
    schedule = LearnedVP(-0.5, 3.0, features=8, learn_ends=True)
    options = {"weight": ELBO(), "conditioning": "log_snr"}
    objective = DiffusionObjective(schedule, "epsilon", LowDiscrepancyTimes(UniformTimes()), **options)
    system = of_parts(Exact(schedule), objective)
    pixels, positions = pixels[:1024], torch.arange(1024)
    optimizer = torch.optim.Adam([schedule.ends], lr=0.1)
    for step in range(20):
        seeds = ops.derive_seeds(6, positions, step=step)
        batch = Batch(pixels, torch.zeros_like(positions), seeds, 0, (), positions + 1024 * step)
        optimizer.zero_grad()
        system(batch).mean().backward()
        optimizer.step()
    low, high = schedule.ends.tolist()
    assert low < -1.5 and high > 4.0


def test_of_captions_that_were_never_seen_the_bound_knows_nothing() -> None:
    told: list[Tensor] = []

    class Listens(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            told.append(labels)
            return torch.zeros_like(x_t)

    pixels, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(3)
    for captions, label_drop, expected in ((True, 0.1, [3, 3, 3]), (True, 0.0, [0, 1, 2]), (False, 0.1, [0, 1, 2])):
        objective = DiffusionObjective(LearnedVP(features=2), "epsilon", UniformTimes(), weight=ELBO())
        system = of_parts(Listens(), objective, Labels(3, label_drop))
        images = ImagesInMemory(pixels, labels, ["a", "b", "c"], captions=captions)
        system.evaluate(images, device=torch.device("cpu"))
        assert told[-1].tolist() == expected


def test_a_run_of_vdm_reports_its_bound_and_is_evaluated_again(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", "vdm", *TINY, f"--out={out}"]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert set(found) == {"bits_per_dimension", "reconstruction_bits", "prior_bits"}
    assert "bits per dimension:" in capsys.readouterr().out
    system = load_system(out)
    assert isinstance(system, VariationalSystem)
    assert not torch.equal(system.prior.objective.schedule.ends, torch.tensor([-5.0, 13.3]))
    assert system.prior.model.waves.frequencies == (3, 4) and len(system.prior.model.down) == 1
    assert cli.main(["evaluate", str(out), "--pictures=20", "--bins=2", "--device=cpu"]) == 0
    measures = json.loads((out / "evaluation.json").read_text())["measures"]
    assert measures["bits_per_dimension"] == pytest.approx(found["bits_per_dimension"], rel=0.1)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_predicts_noise_at_the_paper_s_levels_and_adds_the_variance_asked_for(variance: str) -> None:
    settings = ddpm.Settings(width=8, depth=1, heads=1, multipliers=(1, 2), variance=variance)
    system = ddpm.system(settings, digits().format)
    assert torch.equal(system.prior.objective.schedule.alphas_cumprod, DiscreteVP.linear().alphas_cumprod)
    assert system.prior.objective.prediction.name == "epsilon"
    t = system.prior.objective.times(ops.derive_seeds(0, torch.arange(100)))
    torch.testing.assert_close(t, (t * 1000).round() / 1000)
    assert system.options()["sampler"] == "ddpm" and system.options()["variance"] == variance
    assert system.options()["steps"] == 100


@pytest.mark.parametrize(("attention", "down"), [(0, 0), (7, 1), (14, 2), (100, 3)])
def test_attention_is_asked_for_by_the_height_of_levels(attention: int, down: int) -> None:
    format = ImageFormat(height=28, width=28, channels=1, class_names=("a",))
    model = unet(ddpm.Settings(width=8, depth=1, heads=1, multipliers=(1, 2, 2), attention=attention), format)
    assert (
        sum(
            bool(getattr(layer, "attention", None)) and not isinstance(layer.attention, nn.Identity)
            for layer in model.down
        )
        == down
    )


@pytest.mark.parametrize("name", ["ddpm", "vdm"])
@pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "photographs", "some/folder"])
def test_every_preset_fits_the_images_that_it_is_for(name: str, dataset: str) -> None:
    recipe = load_recipe(name)
    settings = recipe.settings_for(dataset)
    format = ImageFormat(height=settings.size, width=settings.size, channels=3, class_names=("a", "b"))
    with torch.device("meta"):
        model = unet(settings, format)
    assert model.image_size == (settings.size, settings.size)
    assert settings.multipliers == (1,) if name == "vdm" else len(settings.multipliers) > 1


def test_a_recipe_s_own_settings_are_bounded() -> None:
    with pytest.raises(ValueError, match=r"frequencies must lie in \[0, 10\], got \(11,\)"):
        vdm.Settings(frequencies=(11,))

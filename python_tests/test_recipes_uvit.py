"""Simple diffusion and SiD2: the noise that a resolution asks for, what counts, and runs of both."""

import math

import pytest
import torch

from visgen_fast import cli
from visgen_fast.data.images import ImageFormat
from visgen_fast.diffusion import CosineVP, Shifted
from visgen_fast.errors import UserError
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system

RECIPES = ("simple-diffusion", "simpler-diffusion")
SMALL = {"stages": (8,), "width": 8, "depth": 1, "heads": 1}
LEVELS = torch.linspace(-10, 8, 19, dtype=torch.float64)


def system(name, size=(64, 64), **changes):
    recipe = load_recipe(name)
    settings = recipe.settings_for("fashion-mnist", **{**SMALL, **changes})
    return build(recipe, settings, ImageFormat(height=size[0], width=size[1], channels=1, class_names=("a", "b")))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("size", "side"), [((64, 64), 64), ((32, 32), 32), ((32, 128), 64)])
def test_the_schedule_is_shifted_to_as_many_pixels_as_the_images_have(name, size, side):
    schedule = system(name, size).prior.objective.schedule
    assert schedule == Shifted(CosineVP(), 16.0, side)
    assert schedule.log_snr(torch.tensor(0.5)).item() == pytest.approx(2 * math.log(16 / side), abs=1e-5)


def ratio(found, expected):
    """What is the same everywhere where two weights are one up to a factor."""
    return (found / expected) / (found / expected)[0]


def test_simple_diffusion_weighs_levels_as_epsilon_on_the_shifted_cosine_schedule():
    weights = system("simple-diffusion").prior.objective.implied_weight(LEVELS)
    centre = 2 * math.log(16 / 64)
    torch.testing.assert_close(ratio(weights, 1 / torch.cosh((LEVELS - centre) / 2)), torch.ones_like(LEVELS))


@pytest.mark.parametrize(("size", "bias"), [((64, 64), 0.0), ((128, 128), -1.0), ((512, 512), -3.0), ((16, 16), 2.0)])
def test_simpler_diffusion_weighs_levels_by_a_sigmoid_that_falls_with_the_resolution(size, bias):
    objective = system("simpler-diffusion", size).prior.objective
    levels = LEVELS[(LEVELS > -9) & (LEVELS < 6)]
    torch.testing.assert_close(
        ratio(objective.implied_weight(levels), (bias - levels).sigmoid()), torch.ones_like(levels)
    )
    assert objective.is_monotone()
    chosen = system("simpler-diffusion", size, bias=1.5).prior.objective
    torch.testing.assert_close(ratio(chosen.implied_weight(levels), (1.5 - levels).sigmoid()), torch.ones_like(levels))


def test_what_the_two_differ_in_is_the_skips():
    block, residual = (system(name).prior.model.body for name in RECIPES)
    assert (block.skips, residual.skips) == ("blocks", "residual")


def test_the_multiscale_loss_is_an_option():
    plain, several = (system("simple-diffusion", **options) for options in ({}, {"scales": (1, 4)}))
    images, labels, seeds = (
        torch.randint(0, 256, (8, 1, 64, 64), dtype=torch.uint8),
        torch.zeros(8).long(),
        torch.arange(8),
    )

    def loss(system):
        return system.prior.objective(system.prior.model.eval(), images, labels, seeds)

    # The network says 0 at first, so that the error is α² of v's: white noise, less the image, that means shrink.
    assert (loss(several) < loss(plain)).all()
    paper = system("simple-diffusion", scales=(1, 4), scale_weights="paper")
    assert (paper.prior.objective.scales, paper.prior.objective.scale_weights) == ((1, 4), "paper")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("first", ["patches", "wavelet"])
def test_a_short_run_is_trained_resumed_and_drawn_from(name, first, tmp_path, capsys):
    out = str(tmp_path / "run")
    command = ["train", name, "--dataset=digits", f"--first={first}", "--patch-size=2", "--stages", "8", "--width=8"]
    command += ["--depth=1", "--heads=1", "--batch-size=4", "--device=cpu", "--sampling-steps=2", f"--out={out}"]
    assert cli.main([*command, "--steps=2"]) == 0
    assert cli.main([*command, "--steps=3", "--resume"]) == 0
    drawn = load_system(out).sample(torch.tensor([3, 7]), torch.tensor([0, 1]))
    assert drawn.shape == (2, 1, 8, 8) and drawn.isfinite().all()


@pytest.mark.parametrize("name", RECIPES)
def test_digits_and_fashion_mnist_have_sizes_of_their_own(name):
    recipe = load_recipe(name)
    assert [
        (recipe.settings_for(data).size, recipe.settings_for(data).reference) for data in ("digits", "fashion-mnist")
    ] == [
        (8, 8),
        (64, 16),
    ]


def test_images_that_cannot_be_halved_so_often_are_refused_in_a_sentence():
    with pytest.raises(
        UserError, match=r"patch_size, doubled for each stage, must divide image_size \(28, 28\), got 8"
    ):
        system("simple-diffusion", (28, 28), stages=(8, 8))
    with pytest.raises(UserError, match="patch_size must be a power of 2 for a wavelet, got 3"):
        system("simple-diffusion", (24, 24), patch_size=3, first="wavelet")

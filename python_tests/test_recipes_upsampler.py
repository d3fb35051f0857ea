"""Upsampling: a small image with noise that the network is told, high-resolution networks by name, sample --then."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from visgen_fast import cli, ops
from visgen_fast.data.images import ImageFormat, ImagesInMemory, resized, to_range
from visgen_fast.data.order import Batch
from visgen_fast.diffusion.self_conditioning import SelfConditionedPrior
from visgen_fast.errors import UserError
from visgen_fast.models import RIN, HDiT
from visgen_fast.recipes.registry import load_recipe
from visgen_fast.recipes.runs import build, load_system
from visgen_fast.systems.cascade import shrunk

TINY = {"stages": (8,), "width": 8, "depth": 1, "heads": 2, "sampling_steps": 2, "patch_size": 1}
IMAGES = ImageFormat(height=8, width=16, channels=3, class_names=("a", "b"))


def made(recipe="upsampler", images=IMAGES, **changes):
    torch.manual_seed(0)
    found = load_recipe(recipe)
    return build(found, found.settings_for("some/folder", **{**TINY, **changes}), images)


def spied(system, monkeypatch):
    """What the network is given, call by call."""
    calls, network = [], system.prior.model

    def forward(x_t, t, labels):
        calls.append((x_t, labels))
        return network.__class__.forward(network, x_t, t, labels)

    monkeypatch.setattr(network, "forward", forward)
    return calls


def test_training_gives_the_small_image_with_noise_and_tells_its_level(monkeypatch):
    system = made(factor=2, noise=0.8, label_drop=0.0)
    calls, images = spied(system, monkeypatch), torch.randint(0, 256, (64, 3, 8, 16), dtype=torch.uint8)
    seeds = ops.derive_seeds(0, torch.arange(64))
    system(Batch(images, torch.zeros(64).long(), seeds, 0, (), torch.arange(64))).sum().backward()
    (read, _), small = calls[0], shrunk(to_range(images), 2)
    assert read.shape == (64, 7, 8, 16)
    level = read[:, 6]
    assert (level.amax((1, 2)) == level.amin((1, 2))).all() and 0 < level.min() < 0.1 and 0.7 < level.max() <= 0.8
    means = torch.nn.functional.interpolate(small, (8, 16), mode="bicubic")
    spread = (read[:, 3:6] - means).flatten(1).std(1) / level[:, 0, 0]
    assert 0.6 < spread.mean() < 0.9  # bicubic interpolation of white noise has 0.75 of its deviation
    assert (system.given(small, torch.zeros(64), seeds)[:, :3] - means).abs().max() == 0


def test_drawing_depends_on_the_small_image_alone_and_not_on_the_batch(monkeypatch):
    system, small = made(noise=0.5, drawing_noise=0.3).eval(), torch.rand(3, 3, 4, 8) * 2 - 1
    torch.nn.init.normal_(system.prior.model.output[-1].weight, std=0.1)
    calls, labels, seeds = spied(system, monkeypatch), torch.tensor([0, 1, 2]), torch.arange(3)
    drawn = system.enlarge(small, labels, seeds, guidance=2.0)
    assert drawn.shape == (3, 3, 8, 16) and (calls[0][0][:, 6] == 0.3).all()
    read, told = calls[0]
    assert told.tolist() == [0, 1, 2, 2, 2, 2] and torch.equal(read[:3, 3:], read[3:, 3:])  # guided: of one image
    alone = system.enlarge(small[2:], labels[2:], seeds[2:], guidance=2.0)
    torch.testing.assert_close(alone, drawn[2:], rtol=1e-4, atol=1e-4)
    other = system.enlarge(small.flip(0), labels, seeds, guidance=2.0)
    assert (other[0] - drawn[0]).abs().max() > 1e-3 and (other[1] - drawn[1]).abs().max() < 1e-4
    with pytest.raises(ValueError, match=r"small images must have shape \(3, 4, 8\), got \(3, 8, 8\)"):
        system.enlarge(torch.zeros(3, 3, 8, 8), labels, seeds)


def test_the_small_images_are_those_that_a_model_of_half_the_size_is_trained_on():
    large = torch.randint(0, 256, (20, 1, 32, 32), dtype=torch.uint8)
    halved = ImagesInMemory(large, torch.zeros(20).long(), ("all",))
    expected = to_range(resized(halved, 8).read(range(20))[0])
    assert (shrunk(to_range(large), 4) - expected).abs().max() <= 1.01 / 127.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factor": 3}, r"factor must divide the sides of the images \(3, 8, 16\), got 3"),
        (
            {"noise": 0.2, "drawing_noise": 0.3},
            r"drawing_noise must lie in \[0, 0.2\], as the noise of training",
        ),
        ({"network": "hdit", "first": "wavelet"}, "first must be patches for the network hdit, got wavelet"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(changes, said):
    with pytest.raises(UserError, match=said):
        made(**changes)


@pytest.mark.parametrize("recipe", ["simple-diffusion", "simpler-diffusion"])
def test_networks_go_by_their_names(recipe):
    hdit = made(recipe, network="hdit", stages=(8, 16), width=32, heads=4, depth=3).prior.model
    assert isinstance(hdit, HDiT) and hdit.body.down.blocks[0].attention.heads == 1
    assert [block.attention.heads for block in hdit.body.below.below.blocks] == [4] * 3
    system = made(recipe, network="rin", latents=6, rounds=2, self_conditioning=0.7)
    assert isinstance(system.prior, SelfConditionedPrior) and system.prior.share == 0.7
    rin = system.prior.model
    assert isinstance(rin, RIN) and rin.latents.shape == (6, 8) and len(rin.blocks) == 2
    assert made(network="hdit").prior.model.given == 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    sizes = ["--stages", "8", "--width=8", "--depth=1", "--heads=2", "--patch-size=1", "--dataset=digits"]
    tiny = [*sizes, "--batch-size=4", "--steps=1", "--sampling-steps=1", "--device=cpu", "--sample-every=0"]
    for name, words in {
        "base": ["simple-diffusion", "--network=rin"],
        "upsampler": ["upsampler", "--network=hdit", "--size=16"],
        "narrow": ["upsampler", "--size=16", "--factor=4"],
    }.items():
        assert cli.main(["train", *words, *tiny, f"--out={folder / name}"]) == 0
    return folder


def picture(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_a_drawn_image_is_enlarged_whatever_is_drawn_beside_it(runs, tmp_path):
    command = ["sample", str(runs / "base"), f"--then={runs / 'upsampler'}", "--count-per-class=2"]
    assert cli.main([*command, "--labels", "3", "7", f"--out={tmp_path / 'both'}"]) == 0
    assert cli.main([*command, "--labels", "7", f"--out={tmp_path / 'one'}"]) == 0
    both, one = picture(tmp_path / "both" / "7" / "0-1.png"), picture(tmp_path / "one" / "7" / "0-1.png")
    assert both.size == picture(tmp_path / "both" / "3" / "0-0.png").size and both.tobytes() == one.tobytes()
    kept = json.loads(one.info["visgen_fast"])
    assert [kept["recipe"], kept["then"]["recipe"], kept["then"]["run"]] == ["simple-diffusion", *["upsampler"] * 2]
    like = [*command[:3], f"--like={tmp_path / 'one' / '7' / '0-1.png'}"]
    assert cli.main([*like, f"--out={tmp_path / 'again'}"]) == 0
    assert picture(tmp_path / "again" / "7" / "0-1.png").tobytes() == one.tobytes()
    system = load_system(runs / "upsampler")
    assert json.loads((runs / "upsampler" / "metrics.json").read_text()).keys() == {"psnr", "psnr_small"}
    assert (runs / "upsampler" / "upsampled.png").exists() and system.small_shape == (1, 8, 8) and not system.training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["narrow"], "--then must be an upsampler of images of shape (1, 8, 8), but {run} is one of (1, 4, 4)"),
        (["base"], "--then must be a run of the recipe upsampler, but {run} is of simple-diffusion"),
        (["nothing"], "--then: {run} holds no checkpoint of visgen-fast"),
        (["upsampler", "--traverse"], "--then and --traverse must not be given together"),
    ],
)
def test_an_upsampler_that_does_not_fit_is_one_sentence(runs, tmp_path, options, said, capsys):
    run, *others = runs / options[0], *options[1:]
    assert cli.main(["sample", str(runs / "base"), f"--then={run}", *others, f"--out={tmp_path / 'out.png'}"]) == 2
    assert capsys.readouterr().err == f"visgen-fast: {said.format(run=run)}\n"
    assert not (tmp_path / "out.png").exists()


def test_what_was_drawn_with_an_upsampler_is_drawn_again_with_it_alone(runs, tmp_path, capsys):
    drawn = ["sample", str(runs / "base"), "--labels=1", "--count-per-class=1", f"--out={tmp_path / 'out.png'}"]
    assert cli.main([*drawn, f"--then={runs / 'upsampler'}"]) == 0
    capsys.readouterr()
    assert cli.main([*drawn[:2], f"--like={tmp_path / 'out.png'}"]) == 2
    assert capsys.readouterr().err.endswith("out.png was drawn with an upsampler, which must be given as --then\n")


def test_an_upsampler_alone_draws_nothing(runs, tmp_path, capsys):
    assert cli.main(["sample", str(runs / "upsampler"), f"--out={tmp_path / 'out.png'}"]) == 2
    assert "trains no model that draws images: its run shows upsampled.png" in capsys.readouterr().err

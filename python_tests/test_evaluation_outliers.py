"""Images that don't belong: scores, how well they tell, and the systems that give them."""

from __future__ import annotations

import json
import math
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from visgen_fast import cli
from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.idx import FASHION_MNIST_FOLDER
from visgen_fast.data.images import ImagesInMemory
from visgen_fast.data.mnist import SHEET, mnist
from visgen_fast.errors import UserError
from visgen_fast.evaluation.outliers import Outliers, auroc, doubt, of_likelihood, png_bits, reconstruction_error
from visgen_fast.recipes import registry
from visgen_fast.systems.outlying import find_outliers

CPU = torch.device("cpu")
scores = some.lists(some.integers(-3, 3), min_size=1, max_size=12)


@given(scores, scores)
def test_auroc_counts_pairs(inside, outside):
    pairs = [1.0 if b > a else 0.5 if b == a else 0.0 for a in inside for b in outside]
    found = auroc(torch.tensor(inside).float(), torch.tensor(outside).float())
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_auroc_needs_both_sets():
    with pytest.raises(ValueError, match=r"^there must be scores of both sets, got 0 inside and 2 outside$"):
        auroc(torch.zeros(0), torch.zeros(2))


def test_a_png_is_large_where_an_image_is_complex():
    noise = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flat, complex_ = png_bits(torch.cat((torch.zeros_like(noise), noise))).tolist()
    assert flat < 8 * 200 and complex_ > 8 * len(zlib.compress(noise.numpy().tobytes(), 9)) * 0.9
    grey = png_bits(noise[:, :1])
    assert grey.shape == (1,) and grey.dtype == torch.float64 and grey < complex_


def test_scores_of_a_likelihood():
    bits, png = torch.tensor([10.0, 30.0]), torch.tensor([4.0, 50.0], dtype=torch.float64)
    found = of_likelihood(bits, png, usual=20.0)
    assert {name: scores.tolist() for name, scores in found.items()} == {
        "likelihood": [10.0, 30.0],
        "complexity": [6.0, -20.0],
        "typicality": [10.0, 10.0],
    }


def test_scores_of_pictures_and_of_a_classifier():
    images = torch.zeros(2, 1, 4, 4)
    assert reconstruction_error(images, images + torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)).tolist() == [0.0, 4.0]
    assert doubt(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).tolist() == [0.5, 0.0]


def pictures(count, size, key, channels=1):
    generator = torch.Generator().manual_seed(key)
    pixels = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return ImagesInMemory(pixels, torch.zeros(count, dtype=torch.int64), ("one", "two"))


TINY = {
    "vae": {"latents": 2, "likelihood": "logistic"},
    "rectified-flow": {"width": 8, "depth": 1, "heads": 2, "sampling_steps": 2},
    "vdm": {"width": 8, "sampling_steps": 2},
    "tar-flow": {"width": 8, "depth": 1, "heads": 2, "blocks": 2, "label_drop": 0.1},
    "pixel-cnn": {"width": 4, "depth": 1, "levels": 4},
}
MEASURES = {
    "vae": {"likelihood", "complexity", "typicality", "reconstruction", "confidence"},
    "rectified-flow": {"reconstruction", "confidence"},
}


def tiny(name):
    recipe = registry.load_recipe(name)
    known = set(recipe.settings.__dataclass_fields__)
    options = {option: value for option, value in TINY[name].items() if option in known}
    settings = recipe.settings_for("digits", **options, device="cpu")
    torch.manual_seed(0)
    return recipe.system(settings, recipe.pictures(settings).format).eval()


@pytest.mark.parametrize("name", TINY)
def test_every_system_gives_its_measures(name):
    system, images = tiny(name), [pictures(count, 8, key) for key, count in enumerate((20, 6, 5))]
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    found = find_outliers(system, *images, device=CPU, classifier=classifier)
    likely = {"likelihood", "complexity", "typicality"} if system.gives_likelihood else set()
    assert set(found.auroc()) >= likely | {"confidence"} and set(found.auroc()) >= MEASURES.get(name, set())
    for scores, count in ((found.inside, 6), (found.outside, 5)):
        assert all(s.shape == (count,) and s.isfinite().all() and s.dtype == torch.float64 for s in scores.values())
    again = find_outliers(system, *images, device=CPU, classifier=classifier)
    assert all(torch.equal(found.inside[measure], again.inside[measure]) for measure in found.inside)


def test_the_likelihood_is_what_the_evaluation_finds():
    system, images = tiny("vae"), pictures(7, 8, 3)
    bits = find_outliers(system, images, images, images, device=CPU).inside["likelihood"]
    measured = system.evaluate(images, device=CPU)["bits_per_dimension"]
    assert float(bits.mean()) / 64 == pytest.approx(measured, rel=1e-6)


def test_what_cannot_be_measured_is_one_sentence():
    system, images = tiny("vae"), pictures(4, 8, 0)
    with pytest.raises(UserError, match=r"^the outliers must be images \(1, 8, 8\), got \(3, 8, 8\)$"):
        find_outliers(system, images, images, pictures(4, 8, 0, channels=3), device=CPU)


def test_the_histograms_are_drawn(tmp_path):
    both = {"likelihood": torch.randn(50).double(), "typicality": torch.zeros(50).double()}
    Outliers(both, {name: scores + 1 for name, scores in both.items()}).plot(tmp_path / "outliers.png", "mnist")
    assert (tmp_path / "outliers.png").stat().st_size > 1000


@pytest.mark.skipif(not SHEET.exists(), reason="needs the Debian package opencv-doc")
def test_the_digits_of_opencv_s_examples_are_mnist_s():
    train, held_out = mnist(), mnist(part="t10k")
    assert len(train) == 4000 and len(held_out) == 1000 and train.format.shape == (1, 28, 28)
    pixels, labels, _ = train.read(range(len(train)))
    assert labels.bincount().tolist() == [400] * 10 and not pixels[:, :, :4].any()
    zeros, ones = (pixels[labels == label].double().mean(0)[0] for label in (0, 1))
    assert zeros[14, 14] < 40 < zeros[14, 8] and ones[14, 14] > 120  # a hole, and a stroke
    assert DATASETS["mnist"].train(None, 14).format.shape == (1, 14, 14)


def test_mnist_that_is_not_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("visgen_fast.data.mnist.SHEET", tmp_path / "digits.png")
    with pytest.raises(UserError, match="digits.png is not there: install the Debian package opencv-doc, or give"):
        mnist()
    with pytest.raises(UserError, match=r"has no t10k-images-idx3-ubyte or .*: give the folder with MNIST's four"):
        mnist(tmp_path, part="t10k")
    assert math.isfinite(len(DATASETS))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tiny = ["--dataset=fashion-mnist", "--size=8", "--steps=1", "--batch-size=8", "--device=cpu", "--sample-every=0"]
    assert cli.main(["train", "vae", *tiny, "--latents=2", "--likelihood=logistic", f"--out={folder / 'vae'}"]) == 0
    assert cli.main(["train", "classifier", *tiny, "--widths", "4", f"--out={folder / 'classifier'}"]) == 0
    return folder


def said(capsys, *arguments):
    code = cli.main(["evaluate", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.parametrize("name", ["noise", "mirrored", "digits"])
def test_the_command_writes_what_tells(runs, tmp_path, name, capsys):
    options = [f"--outliers={name}", "--pictures=20", f"--features={runs / 'classifier'}", f"--out={tmp_path}"]
    code, printed = said(capsys, runs / "vae", *options)
    found = json.loads((tmp_path / "outliers.json").read_text())
    assert code == 0 and found["set"] == name and found["recipe"] == "vae" and found["inside"] == found["outside"] == 20
    assert set(found["auroc"]) == {"likelihood", "complexity", "typicality", "reconstruction", "confidence"}
    assert all(f"{measure:<16}{value:.3f}" in printed for measure, value in found["auroc"].items())
    assert (tmp_path / "outliers.png").exists()


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.parametrize(
    ("run", "options", "sentence"),
    [
        ("vae", ["--outliers=photographs"], r"the outliers must be images (1, 8, 8), got (3, 8, 8)"),
        (
            "vae",
            ["--outliers=nowhere"],
            "--outliers must be one of digits, fashion-mnist, mnist, photographs, emoji, noise",
        ),
        ("vae", ["--outliers=noise", "--beam=2"], "--beam is for a measurement without --outliers"),
        ("classifier", ["--outliers=noise"], "--outliers is for a model that draws images, and the recipe classifier"),
    ],
)
def test_a_wrong_use_of_the_command_is_one_sentence(runs, run, options, sentence, tmp_path, capsys):
    code, printed = said(capsys, runs / run, *options, f"--out={tmp_path / 'out'}", "--pictures=20")
    assert code == 2 and sentence in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()

"""Tokenizers measured by prefix, on decoders so simple that the answer is known, and from the command line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from visgen_fast import cli
from visgen_fast.evaluation import evaluate_tokenizer, invalid_codes, prefix_errors
from visgen_fast.evaluation.figures import plot_invalid_codes
from visgen_fast.evaluation.report import as_text, write
from visgen_fast.nn import BSQ
from visgen_fast.nn.residual_quantizer import ResidualQuantizer
from visgen_fast.tokenizers import Autoencoder, GridTokenizer

DIMENSIONS = 4


class Pixels(nn.Module):
    """An encoder and its inverse: a 2×2 square of grey pixels is a latent of four numbers."""

    def __init__(self, *, back: bool) -> None:
        super().__init__()
        self.layer = nn.PixelShuffle(2) if back else nn.PixelUnshuffle(2)
        self.last_layer = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.layer(x)


def tokenizer(**options) -> GridTokenizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(options.pop("depth", 6), 16, DIMENSIONS, **options)
    quantizer.codebook.embedding.copy_(torch.randn_like(quantizer.codebook.embedding) * 0.3)
    if options.get("zero_code"):
        quantizer.codebook.embedding[..., 0, :] = 0
    return GridTokenizer(Pixels(back=False), quantizer, Pixels(back=True)).eval()


def images(count: int = 12) -> torch.Tensor:
    return (torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.3).clamp(-1, 1)


def test_errors_begin_with_nothing_and_end_with_what_the_tokenizer_reconstructs():
    trained, shown = tokenizer(), images()
    errors = prefix_errors(trained, shown)
    assert errors.vector.shape == (12 * 16, 7) and errors.latent.shape == errors.pixel.shape == (12, 7)
    zero, full = shown.double().square(), (trained(shown).images.clamp(-1, 1).double() - shown).square()
    torch.testing.assert_close(errors.pixel[:, 0], zero.flatten(1).mean(1))
    torch.testing.assert_close(errors.pixel[:, -1], full.flatten(1).mean(1))
    torch.testing.assert_close(errors.vector.view(12, 16, 7).mean(1), errors.latent)


def test_each_prefix_is_what_its_codes_decode_to():
    trained, shown = tokenizer(), images()
    codes, errors = trained.encode(shown), prefix_errors(trained, shown)
    for depth in range(1, 7):
        decoded = trained.decode(codes[..., :depth]).clamp(-1, 1)
        torch.testing.assert_close(errors.pixel[:, depth], (decoded - shown).double().square().flatten(1).mean(1))


@pytest.mark.parametrize("shared", [False, True])
def test_with_a_zero_code_no_depth_makes_a_latent_worse(shared):
    def harmful(zero_code):
        errors = prefix_errors(tokenizer(shared=shared, zero_code=zero_code), images()).vector
        return invalid_codes(errors).harmful_share

    assert harmful(zero_code=False) > 0.1
    assert harmful(zero_code=True) == 0


def test_an_evaluation_adds_up_its_batches():
    trained, shown = tokenizer(), images()
    together = evaluate_tokenizer(trained, [shown], embed=lambda x: x.flatten(1)[:, :9])
    apart = evaluate_tokenizer(trained, shown.split(5), embed=lambda x: x.flatten(1)[:, :9])
    assert apart.images == together.images == 12
    for name in ("psnr", "rfid", "kernel_distance", "usage", "perplexity"):
        assert getattr(apart, name) == pytest.approx(getattr(together, name))
    assert apart.invalid_codes == together.invalid_codes
    error = prefix_errors(trained, shown).pixel[:, -1]
    assert together.psnr == pytest.approx(float((10 * (4 / error).log10()).mean()))


def test_what_a_tokenizer_does_not_have_is_left_out():
    plain = evaluate_tokenizer(Autoencoder(Pixels(back=False), Pixels(back=True)).eval(), [images()])
    assert plain.usage == () and plain.invalid_codes == {} and plain.rfid is None
    assert evaluate_tokenizer(tokenizer(depth=1), [images()]).invalid_codes == {}


def test_codes_too_many_to_count_leave_the_usage_out_and_the_file_valid(tmp_path):
    quantizer = BSQ(24, group_size=8)
    networks = nn.Conv2d(1, 24, 2, stride=2), nn.ConvTranspose2d(24, 1, 2, stride=2)
    found = evaluate_tokenizer(GridTokenizer(networks[0], quantizer, networks[1]).eval(), [images()])
    assert found.usage == found.perplexity == ()
    write(found, tmp_path, {})
    assert "NaN" not in (tmp_path / "evaluation.json").read_text()
    assert "usage" not in as_text(found)


def test_a_tokenizer_in_training_or_no_images_are_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        evaluate_tokenizer(tokenizer().train(), [images()])
    with pytest.raises(ValueError, match="at least one image"):
        evaluate_tokenizer(tokenizer(), [])


def test_the_figure_is_drawn_where_some_images_are_exact(tmp_path):
    found = invalid_codes(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.2]]))
    plot_invalid_codes({"latent": found, "pixel": found}, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert min(image.size) > 300


TINY = ["--dataset=digits", "--batch-size=8", "--steps=3", "--device=cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with short runs of an RQ-VAE, an autoencoder and a classifier on digits."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe, options in {
        "rq-vae": [*TINY, "--widths", "8", "--dimensions=4", "--codes=8", "--depth=3"],
        "autoencoder": [*TINY, "--widths", "8", "--dimensions=4"],
        "classifier": [*TINY, "--widths", "8", "8"],
    }.items():
        assert cli.main(["train", recipe, f"--out={folder / recipe}", *options]) == 0
    return folder


def test_a_run_is_measured_from_the_command_line(runs, tmp_path, capsys):
    run = str(runs / "rq-vae")
    command = ["evaluate", run, f"--features={runs / 'classifier'}", "--pictures=50", f"--out={tmp_path}"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("PSNR", "rFID", "usage", "invalid (pixel)", str(tmp_path)))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["images"] == 50 and found["rfid"] > 0 and len(found["usage"]) == 3
    assert len(found["invalid_codes"]["pixel"]["mean"]) == 4
    assert (tmp_path / "invalid_codes.png").exists()


def test_a_beam_search_lowers_the_error_of_the_latents(runs, tmp_path):
    errors = []
    for beam in (1, 8):
        assert cli.main(["evaluate", str(runs / "rq-vae"), f"--beam={beam}", f"--out={tmp_path}"]) == 0
        found = json.loads((tmp_path / "evaluation.json").read_text())
        errors.append(found["invalid_codes"]["latent"]["mean"][-1])
    assert errors[1] < errors[0]


def test_mistakes_in_evaluating_are_answered_in_a_sentence(runs, tmp_path, capsys):
    def mistake(*arguments):
        assert cli.main(["evaluate", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("visgen-fast: ") and error.count("\n") == 1
        return error

    assert "holds no checkpoint" in mistake(tmp_path)
    assert "--beam needs a residual quantizer" in mistake(runs / "autoencoder", "--beam=2")
    assert "--beam is for a tokenizer, and the recipe classifier trains none" in mistake(
        runs / "classifier", "--beam=2"
    )
    assert "--pictures must be at least 2" in mistake(runs / "rq-vae", "--pictures=1")
    assert "holds no classifier" in mistake(runs / "rq-vae", f"--features={runs / 'autoencoder'}")

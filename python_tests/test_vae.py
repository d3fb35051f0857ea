"""Variational autoencoders: KL and bound are those of torch.distributions, and the best linear one is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import distributions

from benchmarks.probabilistic_pca import bits_per_value
from visgen_fast import cli, ops
from visgen_fast.data.images import digits, to_range
from visgen_fast.models.vae import VAE
from visgen_fast.nn.likelihoods import log_likelihood, mean_image, observe
from visgen_fast.nn.posterior import DiagonalGaussian
from visgen_fast.recipes.runs import load_system
from visgen_fast.systems import vae as systems_vae
from visgen_fast.systems.vae import VAESystem

CPU = torch.device("cpu")
SEEDS = ops.derive_seeds(0, torch.arange(5))
TINY = ["--dataset=digits", "--device=cpu", "--batch-size=32", "--steps=40", "--latents=3", "--learning-rate=0.01"]
TINY += ["--warmup-steps=0", "--sample-every=0", "--ema-decay=0"]


def test_kl_equals_torch_s_in_float64():
    torch.manual_seed(0)
    parameters = 2 * torch.randn(5, 6, 3, 2, dtype=torch.float64)
    posterior = DiagonalGaussian.of(parameters)
    theirs = distributions.Normal(posterior.mean, (posterior.log_variance / 2).exp())
    expected = distributions.kl_divergence(theirs, distributions.Normal(torch.zeros(()).double(), 1.0))
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-12, atol=1e-14)


def test_kl_keeps_its_digits_where_the_posterior_is_the_prior():
    near = DiagonalGaussian(torch.zeros(1, 1), torch.full((1, 1), 1e-3))
    # ½(e^v − 1 − v) of v = 1e-3, which float32 would lose in e^v − 1.
    assert float(near.kl()) == pytest.approx(2.5008e-7, rel=1e-3)


def test_a_sample_is_normal_around_the_mean_and_is_the_seed_s_own():
    seeds = ops.derive_seeds(1, torch.arange(20_000))
    mean, log_variance = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -3.0])
    posterior = DiagonalGaussian(mean.expand(20_000, 2), log_variance.expand(20_000, 2))
    drawn = posterior.sample(seeds)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(0).log(), log_variance, atol=0.05, rtol=0)
    alone = DiagonalGaussian(posterior.mean[7:8], posterior.log_variance[7:8]).sample(seeds[7:8])
    assert torch.equal(alone[0], drawn[7])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_hold_the_largest_variance(dtype):
    posterior = DiagonalGaussian.of(torch.full((1, 2), 100.0, dtype=dtype))
    assert float(posterior.log_variance) == 20 and posterior.kl().isfinite().all()
    with pytest.raises(ValueError, match=r"parameters must be \[B, 2·C, ...\], got \[1, 3\]"):
        DiagonalGaussian.of(torch.zeros(1, 3))


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_the_bound_equals_that_of_torch_distributions_in_float64(kind, monkeypatch):
    torch.manual_seed(1)
    model = VAE(shape=(1, 8, 8), latents=4, hidden=(7,)).double()
    system = VAESystem(model, kind, 1.0)
    pixels = digits().pixels[:5]
    observed = observe(pixels, SEEDS, kind).double()
    parameters = model.encoder(observed.flatten(1))
    posterior = distributions.Normal(parameters[:, :4], (parameters[:, 4:] / 2).exp())
    z = posterior.mean + posterior.stddev * ops.gaussian(SEEDS, (4,), dtype=torch.float64)
    output = model.decoder(z)
    if kind == "gaussian":  # a pixel's step is 1/128 of what is observed
        conditional = distributions.Normal(output, model.log_scale.exp()).log_prob(observed.flatten(1)) - math.log(128)
    else:
        conditional = distributions.Bernoulli(logits=output).log_prob(observed.flatten(1))
    prior = distributions.Normal(torch.zeros(4).double(), 1.0)
    kl = distributions.kl_divergence(posterior, prior).sum(1)
    elbo = conditional.sum(1) - kl
    monkeypatch.setattr(systems_vae, "observe", lambda *_: observed)
    reconstruction, found = system.terms(pixels, SEEDS)
    torch.testing.assert_close(-reconstruction - found.sum(1), elbo, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [0.004, 0.1, 3.0])
def test_the_logistic_probabilities_of_a_pixel_s_256_values_sum_to_one(scale):
    observed = torch.arange(256, dtype=torch.float64)[:, None] / 127.5 - 1
    log_scale = torch.tensor(math.log(scale), dtype=torch.float64)
    for center in (-1.3, -1.0, 0.1, 0.99):
        output = torch.full_like(observed, center)
        probabilities = log_likelihood(output, observed, log_scale, "logistic").exp()
        assert float(probabilities.sum()) == pytest.approx(1, rel=1e-9)
        cdf = lambda x: torch.sigmoid((x - center) / scale)  # noqa: E731, B023
        edges = observed[100:150, 0]
        middle = cdf(edges + 1 / 255) - cdf(edges - 1 / 255)
        torch.testing.assert_close(probabilities[100:150], middle, rtol=1e-6, atol=1e-12)


def test_the_gaussian_density_is_of_a_pixel_s_steps():
    observed = torch.linspace(-9, 9, 200_001, dtype=torch.float64)[:, None]
    log_scale = torch.tensor(-0.3, dtype=torch.float64)
    density = log_likelihood(torch.zeros_like(observed) + 0.2, observed, log_scale, "gaussian").exp()
    assert float(density.sum()) * 18 / 200_000 * 128 == pytest.approx(1, rel=1e-5)


def test_what_is_observed_of_pixels():
    pixels = torch.tensor([0, 1, 128, 254, 255], dtype=torch.uint8).expand(4000, 5)
    seeds = ops.derive_seeds(2, torch.arange(4000))
    dequantised = observe(pixels, seeds, "gaussian")
    inside = (dequantised.double() + 1) * 128 - pixels
    assert -1e-4 < float(inside.min()) < 0.01 and 0.99 < float(inside.max()) < 1 + 1e-4
    assert abs(float(inside.mean()) - 0.5) < 0.01
    shares = observe(pixels, seeds, "bernoulli").mean(0)
    torch.testing.assert_close(shares, pixels[0] / 255, atol=0.03, rtol=0)
    assert shares[0] == 0 and shares[4] == 1
    assert torch.equal(observe(pixels, seeds, "logistic"), to_range(pixels))
    assert mean_image(torch.tensor([0.0, 100.0]), "bernoulli").tolist() == [0, 1]
    with pytest.raises(ValueError, match="kind must be one of gaussian, logistic, bernoulli, got 'normal'"):
        observe(pixels, seeds, "normal")
    with pytest.raises(ValueError, match=r"must have one shape, got \[2\], \[3\]"):
        log_likelihood(torch.zeros(2), torch.zeros(3), torch.zeros(()), "gaussian")


def test_probabilistic_pca_is_the_likelihood_of_its_normal_distribution():
    torch.manual_seed(0)
    train, test = torch.randn(2, 500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.cov(train.T, correction=0))
    values[:4] = values[:4].mean()
    covariance = vectors @ values.diag() @ vectors.T
    nats = -distributions.MultivariateNormal(train.mean(0), covariance).log_prob(test).mean()
    assert bits_per_value(train, test, 2) == pytest.approx(float(nats) / 6 / math.log(2), rel=1e-9)


def test_a_linear_one_reaches_the_likelihood_of_probabilistic_pca():
    """On the digits as they are observed, all at once; the bound may not exceed it but by the draws of z."""
    torch.manual_seed(0)
    pixels = digits().pixels
    seeds = ops.derive_seeds(3, torch.arange(len(pixels)))
    observed = observe(pixels, seeds, "gaussian").flatten(1)
    best = bits_per_value(observed, observed, 4) + 7
    system = VAESystem(VAE(shape=(1, 8, 8), latents=4, hidden=()), "gaussian", 1.0)
    optimizer = torch.optim.Adam(system.parameters(), betas=(0.9, 0.99))
    steps = 1500
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * step / steps))
        posterior = system.vae.encode(observed)
        output = system.vae.decode(posterior.sample(ops.derive_seeds(4, torch.arange(len(pixels)), step=step)))
        log_p = log_likelihood(output.flatten(1), observed, system.vae.log_scale, "gaussian")
        loss = (posterior.kl().sum(1) - log_p).mean() * system._bits
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        reconstruction, kl = system.terms(pixels, seeds)
    found = float(reconstruction.mean() + kl.sum(1).mean()) * system._bits
    assert best - 0.005 < found < best + 0.02


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    options = {
        "gaussian": ["--hidden", "16"],
        "logistic": ["--hidden", "16", "8"],
        "bernoulli": ["--hidden"],
        "beta": ["--hidden", "16", "--beta=30"],
    }
    for name, chosen in options.items():
        kind = [] if name == "beta" else [f"--likelihood={name}"]
        assert cli.main(["train", "vae", *TINY, *kind, *chosen, f"--out={folder / name}"]) == 0
    return {name: folder / name for name in options}


@pytest.mark.parametrize("name", ["gaussian", "logistic", "bernoulli"])
def test_a_run_reports_its_bound_and_draws(name, runs, tmp_path):
    found = json.loads((runs[name] / "metrics.json").read_text())
    spread = float(to_range(digits().pixels).std())
    # What is known without any learning: that pixels are 256 values, of such a spread; that they are black or white.
    without = {"gaussian": math.log2(128 * spread * math.sqrt(2 * math.pi * math.e)), "logistic": 8, "bernoulli": 1}
    assert 0 < found["latent_bits"] < found["bits_per_dimension"] < without[name]
    assert ("spread" in found) == (name != "bernoulli")
    system = load_system(runs[name])
    layers = {"gaussian": 3, "logistic": 5, "bernoulli": 1}
    assert isinstance(system, VAESystem) and len(system.vae.encoder) == layers[name]
    with Image.open(runs[name] / "reconstructions.png") as figure:
        assert figure.height == 4 + 52 * (3 + 3)  # input, reconstruction, samples; three latents
    for options in (["--count-per-class=4"], ["--interpolate=4"]):
        out = tmp_path / "x.png"
        assert cli.main(["sample", str(runs[name]), f"--out={out}", "--device=cpu", *options]) == 0
        with Image.open(out) as image:
            assert image.size == (4 + 4 * 52, 4 + 52)


def test_a_higher_beta_tells_less(runs):
    kl = {name: json.loads((runs[name] / "metrics.json").read_text()) for name in ("gaussian", "beta")}
    assert kl["beta"]["kl"] < kl["gaussian"]["kl"]
    assert kl["beta"]["dead_latents"] >= kl["gaussian"]["dead_latents"]


def test_the_figure_s_latents_are_sorted_by_what_they_tell(runs):
    system = load_system(runs["gaussian"])
    images = digits()
    drawn, names = system.draw(images, seed=0, device=CPU)
    assert drawn.shape == (6, 10, 1, 8, 8) and names[:3] == ["input", "reconstruction", "samples"]
    told = [float(name.split(": ")[1]) for name in names[3:]]
    assert told == sorted(told, reverse=True)
    again = system.evaluate(images, device=CPU)
    assert again == system.evaluate(images, device=CPU)
    assert sum(told) == pytest.approx(again["kl"], abs=0.02)


def test_a_traversal_moves_each_latent_of_an_image_and_is_drawn_again(runs, tmp_path):
    out, again = tmp_path / "x.png", tmp_path / "y.png"
    command = ["sample", str(runs["gaussian"]), "--device=cpu"]
    assert cli.main([*command, "--traverse", "--count-per-class=5", "--seed=3", f"--out={out}"]) == 0
    assert cli.main([*command, f"--like={out}", f"--out={again}"]) == 0
    with Image.open(out) as drawn, Image.open(again) as same:
        assert drawn.height == 4 + 3 * 52 and drawn.tobytes() == same.tobytes()
    system, point = load_system(runs["gaussian"]), torch.tensor([0.5, -1.0, 2.0])
    rows = system.traverse(point, torch.tensor([0.1, 0.3, 0.2]), 7)
    assert list(rows) == ["latent 1: 0.30", "latent 2: 0.20", "latent 0: 0.10"]
    for end, place in ((-3.0, 0), (0.0, 3), (3.0, 6)):
        expected = system.vae.decode(torch.tensor([[0.5, end, 2.0]]))
        torch.testing.assert_close(rows["latent 1: 0.30"][place], expected[0])


def test_wrong_use_is_one_sentence(runs, capsys, tmp_path):
    for options, said in (
        (["--truncation=0.5"], "this model has no mapping network"),
        (["--labels=3"], "--labels must be left out"),
        (["--guidance=2"], "guidance is no option of this system"),
        (["--traverse", "--interpolate=3"], "--traverse and --interpolate must not be given together"),
        (["--traverse", "--seeds", "1", "2"], "--traverse takes one --seed"),
    ):
        capsys.readouterr()
        command = ["sample", str(runs["gaussian"]), f"--out={tmp_path / 'x.png'}", "--device=cpu", *options]
        assert cli.main(command) == 2
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1

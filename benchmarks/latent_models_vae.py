"""The part `vae` of the study of latent models: bounds against probabilistic PCA, and what β does to the latents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast import ops
from visgen_fast.data.images import Images
from visgen_fast.nn.likelihoods import observe
from visgen_fast.recipes._images import held_out_images
from visgen_fast.recipes.vae import Settings

from . import latent_models_first_20000 as recipe
from .probabilistic_pca import bits_per_value
from .table import as_markdown

LATENTS, BETAS, SEEDS = (8, 16), (1, 4, 16), (0, 1, 2)
_RECIPE = str(Path(recipe.__file__))


def trainings(short: bool) -> dict[str, list[str]]:
    """Command lines by name."""
    common = [_RECIPE, "--log-every=100", "--checkpoint-every=2000", "--keep-checkpoints=1"]
    steps = {"linear": 20 if short else 30_000, "deep": 20 if short else 10_000, "beta": 20 if short else 4_000}
    linear = ["--hidden", f"--steps={steps['linear']}", "--learning-rate=0.005", "--ema-decay=0.999"]
    found = {f"linear-{k}": [*common, *linear, f"--latents={k}"] for k in LATENTS}
    found["deep-16"] = [*common, f"--steps={steps['deep']}", "--latents=16"]
    for beta in BETAS:
        for seed in SEEDS:
            told = [f"--beta={beta}", f"--seed={seed}", "--latents=16", f"--steps={steps['beta']}"]
            found[f"beta-{beta}-{seed}"] = [*common, *told]
    return found


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and beta.png; what was measured, an entry a run."""
    settings = Settings()
    train, test = (_observed(images) for images in (recipe.first(settings), held_out_images(settings)))
    best = {k: bits_per_value(train, test, k) + 7 for k in LATENTS}
    entries = [{"run": name, **json.loads((run / "metrics.json").read_text())} for name, run in runs.items()]
    found = {entry["run"]: entry for entry in entries}
    rows = [
        (f"{k} latents, linear", f"{found[f'linear-{k}']['bits_per_dimension']:.3f}", f"{best[k]:.3f}",
         f"{found[f'linear-{k}']['bits_per_dimension'] - best[k]:+.3f}") for k in LATENTS
    ]  # fmt: skip
    deep = found["deep-16"]["bits_per_dimension"]
    rows.append(("16 latents, nonlinear", f"{deep:.3f}", f"{best[16]:.3f}", f"{deep - best[16]:+.3f}"))
    names = ("kl", "dead_latents", "bits_per_dimension")
    means = {beta: {name: [found[f"beta-{beta}-{seed}"][name] for seed in SEEDS] for name in names} for beta in BETAS}
    table = [(str(beta), *(_spread(values[name]) for name in names)) for beta, values in means.items()]
    (out / "table.md").write_text(
        "# Variational autoencoders\n\nFashion-MNIST: 20,000 images to learn from, 10,000 that are measured. Bits per "
        "dimension of pixels with uniform noise.\n\n"
        + as_markdown(("autoencoder", "its bound", "probabilistic PCA", "difference"), rows)
        + "\n\nβ, 16 latents, three seeds: mean (least … most).\n\n"
        + as_markdown(("β", "KL, nats", "dead latents", "bits per dimension"), table)
        + "\n"
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="β", ylabel="KL, nats", xscale="log")
    for seed in SEEDS:
        axes.plot(BETAS, [found[f"beta-{beta}-{seed}"]["kl"] for beta in BETAS], "o-", alpha=0.6, label=f"seed {seed}")
    axes.legend()
    figure.savefig(out / "beta.png", dpi=120)
    entries += [{"run": f"probabilistic PCA {k}", "bits_per_dimension": bits} for k, bits in best.items()]
    return entries


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.3g} ({min(values):.3g} … {max(values):.3g})"


def _observed(images: Images) -> Tensor:
    """Dequantised pixels [N, D]; of held-out images the very ones that the bound is measured on."""
    pixels, _, _ = images.read(range(len(images)))
    seeds = ops.derive_seeds(0, torch.arange(len(images)), purpose=ops.Purpose.LIKELIHOOD)
    return observe(pixels, seeds, "gaussian").flatten(1)

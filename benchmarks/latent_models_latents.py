"""The part `latents` of the study of latent models: what a first stage is worth below a prior, and what a cache saves.

All first stages are trained for equally many steps, and all priors; FID is by the features of a classifier.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from visgen_fast.data.images import Part, evenly, in_chunks
from visgen_fast.evaluation.fid import distances
from visgen_fast.recipes import kl_autoencoder, latent_diffusion
from visgen_fast.recipes._images import held_out_images, training_images
from visgen_fast.recipes.runs import load_system, trained_classifier
from visgen_fast.systems.generative import draw_samples
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.training.figures import image_grid
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run

from . import latent_models_quantized as quantized
from .table import as_markdown

SEEDS = (0, 1, 2)
STAGES = {
    "kl": ["kl-autoencoder", "--dimensions=4"],
    "kl-equivariance": ["kl-autoencoder", "--dimensions=4", "--equivariance"],
    "vq": ["vq-vae", "--dimensions=4"],
}
# Of the comparison with a cache: an encoder that leaves an eighth of the resolution, as most do, at 64 pixels.
_SIDE, _WIDTHS = 64, (32, 64, 128)
_CPU = torch.device("cpu")


def trainings(short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name: the classifier, the first stages, the priors."""
    common = ["--checkpoint-every=500", "--keep-checkpoints=1"]
    classifier = {"classifier": ["classifier", *common, f"--steps={20 if short else 1500}"]}
    told = [*common, f"--steps={5 if short else 2000}", "--features={runs}/classifier", "--perceptual=0.1"]
    stages = {name: [*words, *told] for name, words in STAGES.items()}
    sizes = ["--width=128", "--depth=4", f"--steps={5 if short else 1500}", "--batch-size=64"]
    rate = ["--learning-rate=0.001", "--lr-schedule=cosine", "--ema-decay=0.99"]
    sizes += [*rate, f"--sampling-steps={2 if short else 40}"]
    priors = {}
    for name, (recipe, stage) in _priors().items():
        for seed in _seeds(short):
            below = [f"--first-stage={{runs}}/{stage}", *([] if short else [f"--cache={{runs}}/cache-{name}"])]
            priors[f"{name}-{seed}"] = [recipe, *common, *sizes, *below, f"--seed={seed}"]
    return [classifier, stages, {f"prior-{name}": words for name, words in priors.items()}]


def _seeds(short: bool) -> tuple[int, ...]:
    return SEEDS[:1] if short else SEEDS


def _priors() -> dict[str, tuple[str, str]]:
    """The recipe and the first stage of each prior."""
    after = str(Path(quantized.__file__))
    return {**{name: ("latent-diffusion", name) for name in STAGES}, "vq-quantized": (after, "vq")}


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and a grid of each prior's images; what was measured."""
    classifier = trained_classifier(runs["classifier"], 1)
    settings = latent_diffusion.Settings(dataset="fashion-mnist")
    whole = held_out_images(settings)
    images = Part(whole, evenly(len(whole), 200 if short else 2000))
    entries, rows = [], []
    for name, (recipe, stage) in _priors().items():
        measured = json.loads((runs[stage] / "metrics.json").read_text())
        found = []
        for seed in _seeds(short):
            file = None if recipe == "latent-diffusion" else recipe
            system = load_system(runs[f"prior-{name}-{seed}"], recipe=file)
            assert isinstance(system, PriorSystem)
            pairs = []
            with torch.no_grad():
                for number, (shown, labels) in enumerate(in_chunks(images, _CPU)):
                    drawn = system.sample(labels, 10_000 * number + torch.arange(len(labels)))
                    pairs.append((classifier.embedding(shown), classifier.embedding(drawn.clamp(-1, 1))))
            found.append(distances(pairs)[0])
            entries.append({"run": f"{name}-{seed}", "fid": found[-1], "rfid": measured["rfid"]})
            if seed == SEEDS[0]:
                image_grid(draw_samples(system, range(10), 8, seed=0, device=_CPU)).save(out / f"{name}.png")
        psnr, rfid = f"{measured['psnr']:.2f}", f"{measured['rfid']:.3g}"
        rows.append((name, psnr, rfid, f"{fmean(found):.3g}", f"{min(found):.3g} … {max(found):.3g}"))
    rates = _rates(short)
    entries.append({"run": "cache", **rates})
    (out / "table.md").write_text(
        "# Latents\n\nFashion-MNIST; first stages and priors trained for equally many steps, FID by a classifier's "
        f"features of {len(images)} held-out images and as many drawn ones of the same labels, seeds of the prior: "
        f"{len(_seeds(short))}.\n\n"
        + as_markdown(("first stage", "PSNR, dB", "rFID", "FID", "least … most"), rows)
        + f"\n\nImages per second of a prior's training at {_SIDE}×{_SIDE} pixels, an encoder of widths "
        f"{', '.join(map(str, _WIDTHS))} on squares of 2: {rates['direct']:.0f} without a cache, {rates['cached']:.0f} "
        f"with one, {rates['cached'] / rates['direct']:.2f} times as many.\n"
    )
    return entries


def _rates(short: bool) -> dict[str, float]:
    """Images per second of training, in alternating steps, the best of all."""
    steps, batch = (4, 16) if short else (20, 32)
    stage = {"dataset": "photographs", "size": _SIDE, "widths": _WIDTHS, "device": "cpu", "steps": 1, "batch_size": 4}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        below = kl_autoencoder.Settings(**stage, sample_every=0)
        images = Part(training_images(below), range(4 * batch))
        run = Run(folder / "stage", below, identity={"recipe": "kl-autoencoder"})
        Trainer(kl_autoencoder.system(below, images.format), images, run).save()
        trainers = {}
        for kind, cache in {"direct": "", "cached": str(folder / "cache")}.items():
            settings = latent_diffusion.Settings(
                dataset="photographs", size=_SIDE, device="cpu", first_stage=str(folder / "stage"), cache=cache,
                width=128, depth=4, heads=4, batch_size=batch,
            )  # fmt: skip
            torch.manual_seed(0)
            system = latent_diffusion.system(settings, images.format)
            trainers[kind] = Trainer(system, images, Run(folder / kind, settings, identity={}))
        seconds: dict[str, list[float]] = {kind: [] for kind in trainers}
        for _ in range(steps):
            for kind, trainer in trainers.items():
                began = time.perf_counter()
                trainer.optimize()
                seconds[kind].append(time.perf_counter() - began)
    return {kind: batch / min(taken) for kind, taken in seconds.items()}

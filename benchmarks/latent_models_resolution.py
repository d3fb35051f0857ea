"""The part `resolution` of the study of latent models: what larger images cost, and what an upsampler must have seen.

A step of HDiT and of RIN's latents at 64² and 128² pixels; RIN with and without self-conditioning; a cascade from 16²
to 32² pixels on its own samples, whose upsampler saw small images with noise or without.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.data.images import AT_A_TIME, Part, evenly, in_chunks
from visgen_fast.diffusion.self_conditioning import SelfConditionedPrior
from visgen_fast.evaluation.fid import distances
from visgen_fast.recipes import simple_diffusion
from visgen_fast.recipes._images import held_out_images
from visgen_fast.recipes.runs import load_system, trained_classifier
from visgen_fast.systems.generative import seeds_of
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.systems.upsampler import UpsamplerSystem
from visgen_fast.training.figures import image_grid

from .latent_models_costs import SIDES, costs, ratios
from .table import as_markdown

SEEDS = (0, 1, 2)
SMALL, LARGE = 16, 32
SHARES = (0.0, 0.5)
NOISES = {"without noise": 0.0, "with noise": 0.25}
DRAWN_AT = (0.0, 0.1, 0.2)  # deviations of the noise on what is enlarged
_SHOWN = 10


def trainings(short: bool) -> dict[str, list[str]]:
    """Command lines by name: the classifier, the model of small images, upsamplers, and RIN."""
    common = ["--checkpoint-every=500", "--keep-checkpoints=1"]
    rate = ["--batch-size=64", "--learning-rate=0.001", "--lr-schedule=cosine", "--ema-decay=0.99"]

    def steps(count: int) -> str:
        return f"--steps={2 if short else count}"

    sizes = ["--width=8", "--depth=1", "--heads=1"] if short else ["--width=128", "--depth=4"]
    stages = ["--stages", "8"] if short else ["--stages", "32"]
    drawn = f"--sampling-steps={1 if short else 25}"
    found = {
        "classifier": ["classifier", *common, f"--size={LARGE}", steps(1500)],
        "small": ["rectified-flow", *common, *rate, *sizes, "--dataset=fashion-mnist", f"--size={SMALL}", drawn]
        + [steps(2000)],
    }
    of_pixels = [*common, *rate, *sizes, *stages, f"--size={LARGE}", drawn]
    for seed in _seeds(short):
        for name, noise in NOISES.items():
            words = ["upsampler", *of_pixels, f"--noise={noise}", f"--seed={seed}", steps(1200)]
            found[f"upsampler-{name.replace(' ', '-')}-{seed}"] = words
        for share in SHARES:
            words = ["simple-diffusion", "--network=rin", *of_pixels, f"--self-conditioning={share}", f"--seed={seed}"]
            found[f"rin-{share}-{seed}"] = [*words, steps(1000)]
    return found


def _seeds(short: bool) -> tuple[int, ...]:
    return SEEDS[:1] if short else SEEDS


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and a grid of cascades; what was measured."""
    taken = costs(short)
    of_steps = [(name, *(f"{1000 * seconds[side]:.1f}" for side in SIDES)) for name, seconds in taken.items()]
    factors = ratios(taken)
    entries: list[dict[str, Any]] = [{"measure": "step", "seconds": taken, "ratios": factors}]
    losses = _losses(runs, short)
    fids = _cascades(runs, out, short)
    entries += [*losses, *fids]
    step_rows = [(*row, f"{factors[row[0]]:.2f}") for row in of_steps]
    of_rin = [
        (f"{share:g}", begun, _spread([entry["loss"] for entry in losses if _is(entry, share, begun)]))
        for share in SHARES
        for begun in (("no", "yes") if share else ("no",))
    ]
    of_cascades = [
        (name, f"{at:g}", _spread([entry["fid"] for entry in fids if entry["kind"] == name and entry["at"] == at]))
        for name, noise in NOISES.items()
        for at in _drawn_at(noise)
    ]
    (out / "table.md").write_text(
        "# Large images\n\nMilliseconds of a processor, the least of alternating runs: a training step of HDiT, with "
        "one level more for twice the resolution; of RIN a forward pass, and what latents do among themselves.\n\n"
        + as_markdown(("", *(f"{side}² pixels" for side in SIDES), "times"), step_rows)
        + f"\n\nLoss of RIN on held-out images of Fashion-MNIST at {LARGE}² pixels, least … most of "
        f"{len(_seeds(short))} seeds.\n\n"
        + as_markdown(("self-conditioned in training", "latents of a first pass", "loss"), of_rin)
        + f"\n\nCascades from {SMALL}² to {LARGE}² pixels on their own samples: FID by a classifier's features.\n\n"
        + as_markdown(("upsampler trained", "noise in drawing", "FID"), of_cascades)
        + "\n"
    )
    return entries


def _is(entry: Mapping[str, Any], share: float, begun: str) -> bool:
    return entry["share"] == share and entry["begun"] == begun


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.4g} ({min(values):.4g} … {max(values):.4g})"


def _images(short: bool) -> Part:
    settings = simple_diffusion.Settings(dataset="fashion-mnist", size=LARGE)
    whole = held_out_images(settings)
    return Part(whole, evenly(len(whole), 40 if short else 1000))


@torch.no_grad()
def _losses(runs: Mapping[str, Path], short: bool) -> list[dict[str, Any]]:
    """The loss of each RIN on held-out images at the same times and noise, with and without a first pass."""
    entries = []
    for share in SHARES:
        for seed in _seeds(short):
            system = load_system(runs[f"rin-{share}-{seed}"])
            assert isinstance(system, PriorSystem) and isinstance(system.prior, SelfConditionedPrior)
            prior, found = system.prior, {"no": 0.0, "yes": 0.0}
            for number, (shown, labels) in enumerate(in_chunks(_images(short), torch.device("cpu"))):
                seeds = ops.derive_seeds(number, torch.arange(len(shown)), purpose=ops.Purpose.LIKELIHOOD)
                models = {"no": prior.model, "yes": prior.twice(torch.ones(len(shown), dtype=torch.bool))}
                for begun, model in models.items():
                    found[begun] += float(prior.objective(model, shown, labels, seeds).sum())
            shares = {name: value / len(_images(short)) for name, value in found.items() if share or name == "no"}
            entries += [{"share": share, "seed": seed, "begun": name, "loss": value} for name, value in shares.items()]
    return entries


def _drawn_at(noise: float) -> tuple[float, ...]:
    return DRAWN_AT if noise else DRAWN_AT[:1]


@torch.no_grad()
def _cascades(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """FID of what each upsampler makes of the same small samples; a grid of those of the first seed."""
    images, classifier = _images(short), trained_classifier(runs["classifier"], 1)
    small = load_system(runs["small"])
    assert isinstance(small, PriorSystem)
    chunks = list(in_chunks(images, torch.device("cpu")))
    truth = [classifier.embedding(shown) for shown, _ in chunks]
    seeds = [AT_A_TIME * number + torch.arange(len(labels)) for number, (_, labels) in enumerate(chunks)]
    drawn = [small.sample(labels, own) for (_, labels), own in zip(chunks, seeds, strict=True)]
    shown, labels = _of_grid(small)
    rows, entries = {"small": shown.repeat_interleave(2, 2).repeat_interleave(2, 3)}, []
    for kind, noise in NOISES.items():
        for seed in _seeds(short):
            system = load_system(runs[f"upsampler-{kind.replace(' ', '-')}-{seed}"])
            assert isinstance(system, UpsamplerSystem)
            for at in _drawn_at(noise):
                system.drawing_noise = at
                pairs = []
                for some, own, (_, classes), of_truth in zip(drawn, seeds, chunks, truth, strict=True):
                    made = system.enlarge(some.clamp(-1, 1), classes, ops.derive_seeds(seed, own)).clamp(-1, 1)
                    pairs.append((of_truth, classifier.embedding(made)))
                entries.append({"kind": kind, "seed": seed, "at": at, "fid": distances(pairs)[0]})
                if seed == SEEDS[0]:
                    rows[f"{kind}, {at:g}"] = system.enlarge(shown.clamp(-1, 1), labels, torch.arange(len(labels)))
    image_grid(torch.stack([row.clamp(-1, 1) for row in rows.values()]), list(rows)).save(out / "cascades.png")
    return entries


def _of_grid(small: PriorSystem) -> tuple[Tensor, Tensor]:
    """An image of each class, small, and the classes."""
    labels = torch.arange(_SHOWN)
    seeds = torch.cat([seeds_of(0, label, 1) for label in range(_SHOWN)])
    return small.sample(labels, seeds), labels

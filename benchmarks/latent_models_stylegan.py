"""The part `stylegan` of the study of latent models: lengths of paths, truncation, and images between two images.

Path lengths are those of Karras et al., "A style-based generator architecture for generative adversarial networks",
2019, section 4.1: the distance of features over a step ε along the way from one vector to another, squared over ε².
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.diffusion.inversion import slerp
from visgen_fast.models.classifier import Classifier
from visgen_fast.models.stylegan import StyleGenerator
from visgen_fast.recipes.runs import load_system, trained_classifier
from visgen_fast.systems.adversarial import GANSystem
from visgen_fast.training.figures import image_grid

from .table import as_markdown

SEEDS = (0, 1, 2)
PSI = (1.0, 0.7, 0.5, 0.0)
_EPSILON = 1e-4
_BETWEEN = (0.25, 0.5, 0.75)
_SHOWN = 9


def trainings(short: bool) -> list[dict[str, list[str]]]:
    """Command lines by name."""
    common = ["--checkpoint-every=1000", "--keep-checkpoints=1"]
    size = ["--steps=5", "--width=8", "--batch-size=8"] if short else ["--steps=3000"]
    runs = {
        f"stylegan-{seed}": ["stylegan", *common, "--no-conditional", *size, f"--seed={seed}"] for seed in _seeds(short)
    }
    return [{"classifier": ["classifier", *common, f"--steps={20 if short else 1500}"], **runs}]


@torch.no_grad()
def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and the grids; what was measured, an entry a run."""
    classifier, count = trained_classifier(runs["classifier"], 1), 20 if short else 500
    entries = []
    for seed in _seeds(short):
        game = load_system(runs[f"stylegan-{seed}"])
        assert isinstance(game, GANSystem) and isinstance(game.generator, StyleGenerator)
        generator = game.generator
        entries.append(
            {
                "run": f"stylegan-{seed}",
                **_path_lengths(generator, classifier, count),
                **_variances(generator, count),
                **_between(generator, classifier, count),
            }
        )
        if seed == SEEDS[0]:
            _grids(generator, out)
    names = [name for name in entries[0] if name != "run"]
    rows = []
    for name in names:
        values = [entry[name] for entry in entries]
        rows.append((name, f"{fmean(values):.4g}", *(f"{value:.4g}" for value in values)))
    (out / "table.md").write_text(
        f"# StyleGAN\n\nWithout classes, on Fashion-MNIST, {count} pairs of latents, features and confidence of a "
        "classifier. Confidence between two images is over that of the two (truncation.png, between.png).\n\n"
        + as_markdown(("measure", "mean", *(f"seed {seed}" for seed in _seeds(short))), rows)
        + "\n"
    )
    return entries


def _seeds(short: bool) -> tuple[int, ...]:
    return SEEDS[:1] if short else SEEDS


def _pairs(generator: StyleGenerator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two latents each, and the seeds of the noise that all images of a pair have."""
    first, second = (ops.derive_seeds(seed, torch.arange(count)) for seed in (11, 12))
    return generator.draw(first).double(), generator.draw(second).double(), first


def _path_lengths(generator: StyleGenerator, classifier: Classifier, count: int) -> dict[str, float]:
    """In float64: a step of 1e-4 leaves float32 three digits."""
    generator, classifier = generator.double(), classifier.double()
    first, second, seeds = _pairs(generator, count)
    ends = generator.mapping(first, None), generator.mapping(second, None)
    shares = ops.uniform(ops.derive_seeds(13, torch.arange(count)), (1,)).double()
    found = {}
    for space in ("z", "w"):
        features = []
        for share in (shares, shares + _EPSILON):
            if space == "w":
                styles = torch.lerp(*ends, share)
            else:
                styles = generator.mapping(slerp(first, second, share[:, 0]), None)
            features.append(classifier.embedding(generator.synthesis(styles, seeds)))
        lengths = (features[1] - features[0]).square().sum(1) / _EPSILON**2
        # As the authors do, without the shortest and the longest hundredth.
        low, high = torch.quantile(lengths, torch.tensor([0.01, 0.99], dtype=torch.float64))
        found[f"path length in {space}"] = float(lengths[(lengths >= low) & (lengths <= high)].mean())
    generator.float(), classifier.float()
    return found


def _variances(generator: StyleGenerator, count: int) -> dict[str, float]:
    seeds = ops.derive_seeds(14, torch.arange(count))
    w = generator.mapping(generator.draw(seeds), None)
    return {
        f"variance of pixels, ψ = {psi:g}": float(
            generator.synthesis(generator.truncated(w, None, psi), seeds).var(0).mean()
        )
        for psi in PSI
    }


def _between(generator: StyleGenerator, classifier: Classifier, count: int) -> dict[str, float]:
    """The classifier's confidence in images on the way in w, and in cross-fades, over that in the ends."""
    first, second, seeds = _pairs(generator, count)
    ends = [generator.mapping(z.float(), None) for z in (first, second)]
    shown = [generator.synthesis(w, seeds) for w in ends]
    best = fmean(_confidence(classifier, images) for images in shown)
    styles = [generator.synthesis(torch.lerp(*ends, share), seeds) for share in _BETWEEN]
    fades = [torch.lerp(*shown, share) for share in _BETWEEN]
    return {
        "confidence in images": best,
        "share kept along w": fmean(_confidence(classifier, images) for images in styles) / best,
        "share kept by cross-fades": fmean(_confidence(classifier, images) for images in fades) / best,
    }


def _confidence(classifier: Classifier, images: Tensor) -> float:
    return float(classifier(images.clamp(-1, 1)).softmax(1).amax(1).mean())


def _grids(generator: StyleGenerator, out: Path) -> None:
    seeds = ops.derive_seeds(15, torch.arange(_SHOWN))
    w = generator.mapping(generator.draw(seeds), None)
    rows = [generator.synthesis(generator.truncated(w, None, psi), seeds) for psi in PSI]
    image_grid(torch.stack(rows), [f"ψ = {psi:g}" for psi in PSI]).save(out / "truncation.png")
    shares, noise, rows, names = torch.linspace(0, 1, _SHOWN)[:, None], seeds[:1].expand(_SHOWN), [], []
    for one, other in ((0, 1), (2, 3), (4, 5)):
        ends = generator.synthesis(w[[one, other]], noise[:2])
        rows += [
            generator.synthesis(torch.lerp(w[one], w[other], shares), noise),
            torch.lerp(ends[0], ends[1], shares[..., None, None]),
        ]
        names += ["in w", "cross-fade"]
    image_grid(torch.stack(rows), names).save(out / "between.png")

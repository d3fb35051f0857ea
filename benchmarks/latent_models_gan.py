"""The part `gan` of the study of latent models: the gradients of two losses, classes drawn, modes covered."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from visgen_fast.data.images import AT_A_TIME
from visgen_fast.data.order import ImagesByPosition
from visgen_fast.models.classifier import Classifier
from visgen_fast.nn.adversarial import generator_loss
from visgen_fast.recipes._images import all_images
from visgen_fast.recipes.dcgan import Settings, system
from visgen_fast.recipes.runs import load_system, trained_classifier
from visgen_fast.systems.adversarial import GANSystem
from visgen_fast.systems.generative import draw_samples
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run

from . import latent_models_stacked as stacked
from .table import as_markdown

GAMES = {"minimax": ["--kind=minimax"], "relativistic": ["--kind=relativistic", "--r1=0.5", "--r2=0.5"]}
SEEDS = (0, 1, 2)
_CPU = torch.device("cpu")
_STEPS = 100


def trainings(short: bool) -> dict[str, list[str]]:
    """Command lines by name."""
    steps = {"classifier": 20 if short else 1500, "dcgan": 20 if short else 5000, "stacked": 20 if short else 3000}
    common = ["--checkpoint-every=1000", "--keep-checkpoints=1"]
    found = {
        "fashion-classifier": ["classifier", *common, f"--steps={steps['classifier']}"],
        "digit-classifier": ["classifier", *common, "--dataset=digits", f"--steps={steps['classifier']}"],
        "dcgan": ["dcgan", *common, "--no-conditional", f"--steps={steps['dcgan']}", "--r1=0.5"],
    }
    for name, options in GAMES.items():
        for seed in SEEDS:
            told = ["--no-conditional", "--learning-rate=0.001", "--width=64", f"--steps={steps['stacked']}"]
            found[f"{name}-{seed}"] = [str(Path(stacked.__file__)), *common, *options, *told, f"--seed={seed}"]
    return found


def report(runs: Mapping[str, Path], out: Path, short: bool) -> list[dict[str, Any]]:
    """Writes table.md and ratio.png; what was measured."""
    ratios = _ratios()
    _plot(ratios, out / "ratio.png")
    classifiers = {name: trained_classifier(runs[f"{name}-classifier"], 1) for name in ("fashion", "digit")}
    count = 200 if short else 2000
    shares = torch.bincount(_classes(classifiers["fashion"], _drawn(runs["dcgan"], count)), minlength=10) / count
    modes = {}
    for name in GAMES:
        for seed in SEEDS:
            recipe = Path(stacked.__file__)
            images = _drawn(runs[f"{name}-{seed}"], 200 if short else 10_000, recipe)
            digits = torch.stack([_classes(classifiers["digit"], images[:, channel, None]) for channel in range(3)], 1)
            modes[name, seed] = len((digits * torch.tensor([100, 10, 1])).sum(1).unique())
    rows = [
        (name, f"{fmean(modes[name, seed] for seed in SEEDS):.0f}", *(str(modes[name, seed]) for seed in SEEDS))
        for name in GAMES
    ]
    (out / "table.md").write_text(
        f"# Generators and discriminators\n\n`dcgan` on Fashion-MNIST without classes: of {count} samples a classifier "
        f"finds in each class {', '.join(f'{100 * share:.1f}%' for share in shares.tolist())}.\n\nModes of 1,000 that "
        "10,000 samples of stacked digits cover, after equally many steps:\n\n"
        + as_markdown(("game", "mean", *(f"seed {seed}" for seed in SEEDS)), rows)
        + f"\n\nThe norm of G's minimax gradient over that of the non-saturating one, steps 1 to {_STEPS}: from "
        f"{ratios[0][0]:.3g} to {ratios[-1][0]:.3g}, least {min(ratio for ratio, _ in ratios):.3g} (ratio.png).\n"
    )
    entries: list[dict[str, Any]] = [{"run": f"{name}-{seed}", "modes": found} for (name, seed), found in modes.items()]
    entries.append({"run": "dcgan", "shares": shares.tolist()})
    return [*entries, {"gradient_ratio": [ratio for ratio, _ in ratios], "fake_logit": [logit for _, logit in ratios]}]


def _ratios() -> list[tuple[float, float]]:
    """Over dcgan's first steps: the ratio of the norms of G's two gradients, and the mean verdict on its images."""
    settings = Settings(steps=_STEPS, sample_every=0, device="cpu", conditional=False)
    torch.manual_seed(0)
    images = all_images(settings)
    game = system(settings, images.format)
    data = ImagesByPosition(images, settings.seed)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(game, images, Run(Path(folder), settings, identity={}))
        weights = list(game.generator.parameters())
        for step in range(_STEPS):
            trainer.optimize()
            batch = data.__getitems__(list(range(step * settings.batch_size, (step + 1) * settings.batch_size)))
            fake = game.discriminator(game.generator(game.generator.draw(batch.seeds), None, batch.seeds), None)
            norms = []
            for kind in ("minimax", "non_saturating"):
                loss = generator_loss(None, fake, kind).mean()
                norms.append(_norm(torch.autograd.grad(loss, weights, retain_graph=True)))
            found.append((norms[0] / norms[1], float(fake.detach().mean())))
    return found


def _norm(gradients: tuple[Tensor, ...]) -> float:
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def _plot(ratios: list[tuple[float, float]], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="minimax / non-saturating", yscale="log")
    steps = range(1, len(ratios) + 1)
    axes.plot(steps, [ratio for ratio, _ in ratios], label="norms of G's gradients")
    axes.plot(
        steps, torch.tensor([logit for _, logit in ratios]).exp().tolist(), "--", label="$e^D$ of the mean verdict"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


@torch.no_grad()
def _drawn(run: Path, count: int, recipe: Path | None = None) -> Tensor:
    """Images [count, C, H, W] of a run without classes."""
    game = load_system(run, recipe=recipe)
    assert isinstance(game, GANSystem)
    return draw_samples(game, [0], count, seed=0, device=_CPU)[0]


@torch.no_grad()
def _classes(classifier: Classifier, images: Tensor) -> Tensor:
    return torch.cat([classifier(some).argmax(1) for some in images.clamp(-1, 1).split(AT_A_TIME)])

"""Claims about trained models that are measured on runs of yours; nothing is trained here.

The runs lie in build/truth/checkpoints, each under the name of what it is: `rq-vae`, `diffusion`, a class-conditional
model of images that takes guidance, and `classifier`, of the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops
from visgen_fast.data.images import to_range
from visgen_fast.recipes.recipe import Recipe
from visgen_fast.recipes.runs import images_to_measure, trained, trained_classifier
from visgen_fast.systems.generative import GenerativeSystem
from visgen_fast.systems.tokenizer import TokenizerSystem
from visgen_fast.training import checkpoint
from visgen_fast.training.settings import TrainingSettings
from visgen_fast.training.system import System

from ..studies import ROOT
from .claim import Claim, NotMeasured, Row

FOLDER = ROOT / "build" / "truth" / "checkpoints"
_SEEDS, _PICTURES = range(3), 40
_LONG = 500  # steps that count as many


def _run(name: str) -> tuple[Recipe[Any], TrainingSettings, System]:
    """The run of this name."""
    if not (FOLDER / name).is_dir():
        raise NotMeasured(f"it needs a run of yours, in build/truth/checkpoints/{name}")
    return trained(checkpoint.read(FOLDER / name))


def _pictures(recipe: Recipe[Any], settings: TrainingSettings, seed: int) -> tuple[Tensor, Tensor]:
    """Some held-out images uint8, others for each seed, and their labels."""
    images, _ = images_to_measure(recipe, settings)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    pixels, labels, _ = images.read(order[:_PICTURES].tolist())
    return pixels, labels


def centroid(images: Tensor) -> float:
    """The mean frequency of images [B, C, H, W], in cycles a pixel, weighed by power."""
    power = torch.fft.fft2(images.double()).abs().square().mean((0, 1))
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in images.shape[2:])
    return float((power * torch.hypot(rows[:, None], columns)).sum() / power.sum())


@torch.no_grad()
def coarse_to_fine() -> Sequence[Row]:
    """Spearman's correlation of the depth with the mean frequency of what its code adds to the image."""
    recipe, settings, system = _run("rq-vae")
    if not isinstance(system, TokenizerSystem):
        raise NotMeasured("build/truth/checkpoints/rq-vae must be a run of rq-vae")
    found = []
    for seed in _SEEDS:
        stages = list(system.tokenizer.stages(to_range(_pictures(recipe, settings, seed)[0])).values())
        if len(stages) < 4:
            raise NotMeasured("build/truth/checkpoints/rq-vae must have at least 4 depths")
        added = [centroid(later - earlier) for earlier, later in zip(stages, stages[1:], strict=False)]
        ranks = torch.stack((torch.tensor(added).argsort().argsort(), torch.arange(len(added)))).double()
        found.append(float(torch.corrcoef(ranks)[0, 1]))
    return [
        Row("rank correlation of depth and frequency", found, "above", 0.0),
        Row("the same", found, "above", 0.8, "size"),
    ]


def _diffusion() -> tuple[GenerativeSystem, Tensor]:
    """The model, and labels of all classes alike, [_PICTURES]."""
    recipe, settings, system = _run("diffusion")
    if not isinstance(system, GenerativeSystem):
        raise NotMeasured("build/truth/checkpoints/diffusion must be a run of a model that draws images")
    images, _ = images_to_measure(recipe, settings)
    return system, torch.arange(_PICTURES) % len(images.format.class_names)


def _seeds(seed: int) -> Tensor:
    return ops.derive_seeds(seed, torch.arange(_PICTURES), purpose=ops.Purpose.INITIAL_STATE)


def enough_steps() -> Sequence[Row]:
    """The distance of images by 10 and by 50 steps from those by 500, over the spread of these, from the same noise."""
    system, labels = _diffusion()
    far, near = [], []
    for seed in _SEEDS:
        goal = system.sample(labels, _seeds(seed), steps=_LONG)
        scale = float((goal - goal.mean(0)).square().mean().sqrt())
        for steps, found in ((10, far), (50, near)):
            drawn = system.sample(labels, _seeds(seed), steps=steps)
            found.append(float((drawn - goal).square().mean().sqrt()) / scale)
    gains = [one - other for one, other in zip(far, near, strict=True)]
    return [
        Row("distance by 10 steps less that by 50", gains, "above", 0.0),
        Row("distance by 50 steps, in deviations of the images", near, "below", 0.1),
    ]


@torch.no_grad()
def guidance_helps() -> Sequence[Row]:
    """Guidance 2 against none: how many images a classifier takes for their class, and calls of the network."""
    system, labels = _diffusion()
    recipe, settings, _ = _run("diffusion")
    classifier = trained_classifier(FOLDER / "classifier", images_to_measure(recipe, settings)[0].format.channels)
    gains, calls = [], []
    for seed in _SEEDS:
        right, counted = [], []
        for guidance in (1.0, 2.0):
            drawn, seen = _counting(system, partial(system.sample, labels, _seeds(seed), guidance=guidance))
            right.append(float((classifier(drawn.clamp(-1, 1)).argmax(1) == labels).double().mean()))
            counted.append(seen)
        gains.append(right[1] - right[0])
        calls.append(counted[1] / counted[0])
    return [
        Row("gain in the share that is taken for its class", gains, "above", 0.0),
        Row("calls of the network, guided over unguided", [max(calls)], "below", 2.1),
        Row("the same, at least", [min(calls)], "above", 1.9),
    ]


def _counting(system: GenerativeSystem, draw: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What is drawn, and how many images the network saw for it."""
    seen = 0

    def count(module: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        seen += len(arguments[0])

    hook = system.model.register_forward_pre_hook(count)  # type: ignore[union-attr, operator]  # a network
    try:
        return draw(), seen
    finally:
        hook.remove()


def _statistic(number: int, source: str, text: str, refuted_if: str, measure: Callable[[], Sequence[Row]]) -> Claim:
    return Claim(number, source, text, "statistic", refuted_if, measure=measure)


CLAIMS = (
    _statistic(4, "000:53, 003:109", "depth goes coarse to fine", "no rank correlation", coarse_to_fine),
    _statistic(69, "002:364", "about 50 steps are enough, and needed", "not flat from 50", enough_steps),
    _statistic(72, "002:435", "guidance is needed, and doubles the cost", "no gain", guidance_helps),
)

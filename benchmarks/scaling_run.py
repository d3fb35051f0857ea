"""One run of the study of scaling laws: a DiT is trained and measured on the way, or the network that finds features.

`python -m benchmarks.scaling_run TASK OUT` is what the study calls: TASK is JSON, OUT the file of the result, which is
there once all is done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from visgen_fast import ops
from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.images import Images, Part, evenly, held_out_part, to_range, training_part
from visgen_fast.diffusion import CosineVP, DiffusionObjective, Laplace, UniformTimes, elbo
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.evaluation import importance_weighted_loss, loss_by_level
from visgen_fast.models import DiT
from visgen_fast.models.classifier import Classifier
from visgen_fast.nn.class_condition import Labels
from visgen_fast.systems.classifier import ClassifierSystem
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.tokenizers.first_stage import Pixels
from visgen_fast.training.loop import Trainer
from visgen_fast.training.run import Run
from visgen_fast.training.settings import TrainingSettings
from visgen_fast.training.system import System

from . import studies
from .noise_levels_run import FeatureSpace, draw, features_of

BATCH = 32
LEVELS = tuple(float(level) for level in range(-9, 10))
_IMPORTANCE = Laplace(0.0, 0.5)
_DEPTH, _HEAD, _TOKENS = 3, 16, 7  # of the network; tokens along a side, about
_CALLS = 16  # of the network for an image's bound
_FEATURES_STEPS = 400


@dataclass(frozen=True)
class Task:
    """A run of the study: everything that decides what comes out. `width` is 0 for the network of the features.

    steps: rising, after which the run is measured; pictures: how many it is trained on, 0 for all; measured: held-out
    pictures; samples: drawn for the kernel distance.
    """

    dataset: str
    width: int
    seed: int
    steps: tuple[int, ...]
    pictures: int
    measured: int
    samples: int

    def __str__(self) -> str:
        if not self.width:
            return f"{self.dataset}, features"
        of = f", {self.pictures} pictures" if self.pictures else ""
        return f"{self.dataset}, width {self.width}{of}, seed {self.seed}"


def images_of(dataset: str) -> tuple[Images, Images]:
    """The images to train on, and those held out."""
    source = DATASETS[dataset]
    images = source.train(None, source.size)
    if source.held_out is not None:
        return images, source.held_out(None, source.size)
    return training_part(images), held_out_part(images)


def _trainer(system: System, images: Images, steps: int, seed: int, out: Path) -> Trainer:
    """With a learning rate that stays as it is, so that a short run is the beginning of a long one."""
    settings = TrainingSettings(
        steps=steps,
        batch_size=BATCH,
        learning_rate=1e-3,
        warmup_steps=min(50, steps // 4),
        ema_decay=0.99,
        device="cpu",
        seed=seed,
    )
    return Trainer(system, images, Run(out.with_suffix(""), settings, identity={}))


def train_features(task: Task, out: Path) -> dict[str, Any]:
    """Trains a classifier, and writes its weights beside `out`."""
    images, _ = images_of(task.dataset)
    torch.manual_seed(0)
    format = images.format
    network = Classifier(channels=format.channels, classes=len(format.class_names), widths=(16, 32))
    steps = min(_FEATURES_STEPS, 4 * task.steps[-1])
    trainer = _trainer(ClassifierSystem(network), images, steps, 0, out)
    for _ in range(steps):
        trainer.optimize()
    trained = trainer.average.module.classifier
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu() for name, tensor in trained.state_dict().items()}, out.with_suffix(".safetensors"))
    return {}


def train(task: Task, out: Path) -> dict[str, Any]:
    """The parameters of a network, and what it is worth after each number of steps: its moving average."""
    images, held_out = images_of(task.dataset)
    if task.pictures:
        images = Part(images, evenly(len(images), task.pictures))
    format = images.format
    torch.manual_seed(task.seed)
    model = DiT(
        image_size=format.size,
        channels=format.channels,
        patch_size=max(1, format.size // _TOKENS),
        width=task.width,
        depth=_DEPTH,
        heads=max(1, task.width // _HEAD),
        classes=len(format.class_names),
        conditioning="log_snr",
    )
    objective = DiffusionObjective(CosineVP(), "v", UniformTimes(), conditioning="log_snr")
    prior = DiffusionPrior(model, objective, SamplerSettings(steps=25, guidance=1.0))
    system = PriorSystem(prior, Labels(len(format.class_names)), Pixels(format.shape))
    trainer = _trainer(system, images, task.steps[-1], task.seed, out)
    features = Classifier.of_state(load_file(features_of(out).with_suffix(".safetensors")))
    space, points = FeatureSpace(features, held_out), []
    for step in range(1, task.steps[-1] + 1):
        trainer.optimize()
        if step in task.steps:
            averaged = trainer.average.module
            drawn = draw(averaged, task.seed, task.samples, torch.device("cpu"), len(format.class_names))
            points.append(
                {"steps": step, **_likelihood(averaged, held_out, task), "kernel_distance": space.distance(drawn)}
            )
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"parameters": parameters, "trained_on": len(images), "points": points}


@torch.no_grad()
def _likelihood(system: PriorSystem, held_out: Images, task: Task) -> dict[str, float]:
    """The importance-weighted loss and the bound in bits per dimension, with the same noise for all runs."""
    pixels, labels, _ = held_out.read(evenly(len(held_out), task.measured))
    seeds = ops.derive_seeds(0, torch.arange(len(pixels)), purpose=ops.Purpose.LIKELIHOOD)
    objective = system.prior.objective
    losses = loss_by_level(system.model, objective, pixels, labels, LEVELS, seeds=seeds)
    bounds = elbo(
        *(system.prior.network, to_range(pixels), labels, seeds),
        schedule=objective.schedule,
        prediction=objective.prediction,
        calls=_CALLS,
    )
    return {
        "importance_weighted_loss": float(importance_weighted_loss(losses, _IMPORTANCE)[0]),
        "elbo": float(bounds.mean()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_run", description=__doc__.splitlines()[0])
    parser.add_argument("task", help="as JSON")
    parser.add_argument("out", type=Path, help="file of the result")
    options = parser.parse_args(arguments)
    content = json.loads(options.task)
    task = Task(**{**content, "steps": tuple(content["steps"])})
    found = (train if task.width else train_features)(task, options.out)
    studies.write(options.out, {"task": content, "evaluation": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

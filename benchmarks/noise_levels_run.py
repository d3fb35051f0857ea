"""One run of the study of noise levels: a variant is trained and measured, or the network that finds features.

`python -m benchmarks.noise_levels_run TASK OUT` is what the study calls: TASK is JSON, OUT the file of the result,
which is there once all is done.
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
from torch import Tensor

from visgen_fast import ops
from visgen_fast.data.images import Images, evenly, to_range
from visgen_fast.diffusion import DiffusionObjective, Laplace, plan, sample
from visgen_fast.diffusion.prior import DiffusionPrior, SamplerSettings
from visgen_fast.evaluation import importance_weighted_loss, kernel_distance, loss_by_level
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
from .noise_levels_presets import PRESETS, Setting, changed
from .noise_levels_variants import SHIFT, VARIANTS

LEVELS = tuple(float(level) for level in range(-9, 5))
_CURVE = LEVELS[2:11]  # where the importance lies
_CURVE_PICTURES, _CURVE_POINTS = 128, 16
IMPORTANCE = Laplace(SHIFT, 0.5)
# From nearly pure noise to less than an eight-bit step, the same levels for all.
_SAMPLING_LEVELS = torch.linspace(-10, 10, 26, dtype=torch.float64)
_AT_A_TIME = 100
_FEATURES_STEPS, _FEATURES_BATCH = 400, 32
_SHOWN = 10


@dataclass(frozen=True)
class Task:
    """A run of the study: everything that decides what comes out. `variant` is "" for the network of the features."""

    preset: str
    dataset: str
    variant: str
    seed: int
    steps: int
    pictures: int
    samples: int
    data: str

    @property
    def setting(self) -> Setting:
        chosen = PRESETS[self.preset][self.dataset]
        return changed(chosen, steps=self.steps, pictures=self.pictures, samples=self.samples)

    def __str__(self) -> str:
        return f"{self.dataset}, {self.variant}, seed {self.seed}" if self.variant else f"{self.dataset}, features"


def trainer_of(system: System, images: Images, setting: Setting, seed: int, out: Path, **settings: Any) -> Trainer:
    """The trainer of a new run, before its first step; unless it is saved, it writes nothing."""
    length = {"steps": setting.steps, "batch_size": setting.batch_size, **settings}
    options = TrainingSettings(
        **length,
        learning_rate=setting.learning_rate,
        warmup_steps=min(50, setting.steps // 8),
        lr_schedule="cosine",
        ema_decay=0.99,
        mixed_precision=setting.mixed_precision,
        device=setting.device,
        seed=seed,
    )
    return Trainer(system, images, Run(out.with_suffix(""), options, identity={}))


def train_features(task: Task, out: Path) -> dict[str, Any]:
    """Trains a classifier, and writes its weights beside `out`; what two sets of real images are apart by it."""
    setting = task.setting
    images, held_out = setting.images(Path(task.data))
    torch.manual_seed(0)
    format = images.format
    system = ClassifierSystem(
        Classifier(channels=format.channels, classes=len(format.class_names), widths=(16, 32, 64))
    )
    steps = min(_FEATURES_STEPS, 4 * setting.steps)
    trainer = trainer_of(system, images, setting, 0, out, steps=steps, batch_size=_FEATURES_BATCH)
    for _ in range(steps):
        trainer.optimize()
    classifier = trainer.average.module.classifier
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu() for name, tensor in classifier.state_dict().items()}, out.with_suffix(".safetensors"))
    space = FeatureSpace(classifier, held_out)
    taken = torch.cat([classifier(x.to(space.device)).argmax(1).cpu() for x in space.pictures.split(_AT_A_TIME)])
    real, _ = _some(images, setting.samples)
    return {
        "accuracy": float((taken == space.labels).double().mean()),
        "kernel_distance_of_images": space.distance(to_range(real)),
    }


class FeatureSpace:
    """The features of held-out images, and how far others are from them: the kernel distance of whitened features."""

    def __init__(self, classifier: Classifier, held_out: Images) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        pixels, self.labels = _some(held_out, 2000)
        self.pictures = to_range(pixels)
        found = self._features(self.pictures)
        self.mean = found.mean(0)
        values, vectors = torch.linalg.eigh((found - self.mean).T.cov())
        # Directions that real images hardly use would be noise alone.
        used = values > 1e-4 * values[-1]
        self.whitening = vectors[:, used] / values[used].sqrt()
        self.real = (found - self.mean) @ self.whitening

    @property
    def device(self) -> torch.device:
        return self.classifier.output.weight.device

    def distance(self, images: Tensor) -> float:
        """Of images [N, C, H, W] in [−1, 1]."""
        return kernel_distance((self._features(images.clamp(-1, 1)) - self.mean) @ self.whitening, self.real)

    def _features(self, images: Tensor) -> Tensor:
        parts = images.split(_AT_A_TIME)
        return torch.cat([self.classifier.embedding(part.to(self.device)).cpu() for part in parts]).double()


def train_variant(task: Task, out: Path) -> dict[str, Any]:
    """Trains and measures a variant; the first seed leaves some of its samples beside `out`."""
    setting, variant = task.setting, VARIANTS[task.variant]
    images, held_out = setting.images(Path(task.data))
    # All variants begin with the same weights.
    torch.manual_seed(task.seed)
    model = setting.network(images.format, variant.large_patches)
    sampler = SamplerSettings(steps=len(_SAMPLING_LEVELS) - 1, guidance=1.0)
    prior = DiffusionPrior(model, variant.objective(), sampler)
    system = PriorSystem(prior, Labels(len(images.format.class_names)), Pixels(images.format.shape))
    trainer = trainer_of(system, images, setting, task.seed, out)
    pictures = Measured(held_out, setting, trainer.accelerator.device)
    every, curve = max(1, setting.steps // _CURVE_POINTS), []
    for step in range(1, setting.steps + 1):
        trainer.optimize()
        if step % every == 0 or step == setting.steps:
            curve.append((step, pictures.importance(trainer.average.module)))
    averaged = trainer.average.module
    drawn = draw(averaged, task.seed, setting.samples, pictures.device, len(images.format.class_names))
    if task.seed == 0:
        shown = drawn[:_SHOWN].clamp(-1, 1)
        save_file({"samples": shown.contiguous()}, out.with_suffix(".safetensors"))
    features = Classifier.of_state(load_file(features_of(out).with_suffix(".safetensors"))).to(pictures.device)
    return {
        **pictures.errors(averaged),
        "curve": {"steps": [step for step, _ in curve], "importance_weighted_loss": [loss for _, loss in curve]},
        "kernel_distance": FeatureSpace(features, held_out).distance(drawn),
    }


class Measured:
    """The held-out images that errors are measured on, with the same noise for every variant and every seed."""

    def __init__(self, held_out: Images, setting: Setting, device: torch.device) -> None:
        pixels, labels = _some(held_out, setting.pictures)
        self.x, self.labels, self.device = pixels.to(device), labels.to(device), device
        self.seeds = ops.derive_seeds(0, torch.arange(len(pixels)), purpose=ops.Purpose.LIKELIHOOD).to(device)
        self.scale = held_out.format.height // 8

    def importance(self, system: PriorSystem) -> float:
        """The importance-weighted loss on some of the images."""
        few = slice(_CURVE_PICTURES)
        of_images = {"pictures": self.x[few], "labels": self.labels[few], "seeds": self.seeds[few]}
        losses = loss_by_level(system.prior.model, system.prior.objective, grid=_CURVE, **of_images)
        return float(importance_weighted_loss(losses, IMPORTANCE)[0])

    def errors(self, system: PriorSystem) -> dict[str, Any]:
        """The errors of x at all levels, of pixels and at 8×8 pixels, and the importance-weighted loss."""
        of_images = {"pictures": self.x, "labels": self.labels, "seeds": self.seeds}
        losses = loss_by_level(
            system.prior.model, system.prior.objective, grid=LEVELS, scales=(1, self.scale), **of_images
        )
        return {
            "log_snr": losses.log_snr.tolist(),
            "error": losses.x[:, 0].tolist(),
            "low_resolution_error": losses.x[:, 1].tolist(),
            "importance_weighted_loss": float(importance_weighted_loss(losses, IMPORTANCE)[0]),
        }


def draw(system: PriorSystem, seed: int, count: int, device: torch.device, classes: int) -> Tensor:
    """Images of all classes alike [count, C, H, W], along the same levels of λ whatever the schedule is."""
    objective: DiffusionObjective = system.prior.objective
    steps = plan("dpm++2m", objective.schedule, objective.prediction, times=objective.schedule.time(_SAMPLING_LEVELS))
    places = torch.arange(count)
    seeds = ops.derive_seeds(seed, places, purpose=ops.Purpose.INITIAL_STATE)
    network = system.prior.network
    parts = [
        sample(network, steps, system.shape, (some % classes).to(device), of_some.to(device)).cpu()
        for some, of_some in zip(places.split(_AT_A_TIME), seeds.split(_AT_A_TIME), strict=True)
    ]
    return torch.cat(parts)


def features_of(out: Path) -> Path:
    """The file of the result of the data set's features, beside which their network is."""
    return out.parent / "features.json"


def _some(images: Images, count: int) -> tuple[Tensor, Tensor]:
    """Pixels uint8 and labels of `count` images, spread over all."""
    pixels, labels, _ = images.read(evenly(len(images), count))
    return pixels, labels


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_levels_run", description=__doc__.splitlines()[0])
    parser.add_argument("task", help="as JSON")
    parser.add_argument("out", type=Path, help="file of the result")
    options = parser.parse_args(arguments)
    task = Task(**json.loads(options.task))
    found = (train_variant if task.variant else train_features)(task, options.out)
    studies.write(options.out, {"task": json.loads(options.task), "evaluation": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())

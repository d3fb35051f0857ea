"""What the recipes of diffusion models share: how images are drawn, and the transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from ..data.images import ImageFormat
from ..diffusion.guiding import check_interval
from ..diffusion.objective import DiffusionObjective
from ..diffusion.predictions import Prediction
from ..diffusion.prior import DiffusionPrior, SamplerSettings
from ..diffusion.schedules import Schedule
from ..diffusion.times import TimeSampling
from ..models.dit import DiT
from ..nn.class_condition import Labels
from ..systems.prior import PriorSystem
from ..tokenizers.first_stage import Pixels
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._images import ImageSettings

# Of training, whatever the network.
MINUTES: dict[str, Any] = {
    **{"steps": 1000, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 50, "lr_schedule": "cosine"},
    **{"ema_decay": 0.99, "sample_every": 250, "checkpoint_every": 250},
}
HOURS: dict[str, Any] = {"steps": 20_000, "learning_rate": 5e-4, "ema_decay": 0.9995}
DAYS: dict[str, Any] = {
    **{"steps": 100_000, "learning_rate": 3e-4, "ema_decay": 0.9998},
    **{"sample_every": 2000, "checkpoint_every": 2000, "horizontal_flip": True, "workers": 2},
}
SMALL_IMAGES = ("fashion-mnist", "mnist", "photographs", "emoji")
DIT_PRESETS = {
    "digits": MINUTES,
    **dict.fromkeys(SMALL_IMAGES, {**HOURS, "width": 256, "depth": 6}),
    "folder": {**DAYS, "width": 384, "depth": 8, "heads": 6, "patch_size": 4},
}


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings(ImageSettings):
    """A class-conditional diffusion model."""

    label_drop: Annotated[float, Between(0, 1)] = 0.1
    """Share of the images trained on without their label, which guidance needs."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 50
    """Steps of the solver from noise to image."""
    guidance: Annotated[float, Between(-1000, 1000)] = 2.0
    """Weight of classifier-free guidance when images are drawn; 1 is none."""
    guidance_interval: tuple[float, float] | None = None
    """The times, of 0 for the image to 1 for noise, in which images are guided; by default all."""


@dataclass(frozen=True, kw_only=True)
class DiTSettings(DiffusionSettings):
    """A diffusion transformer (Peebles and Xie, "Scalable diffusion models with transformers", 2023)."""

    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the square of pixels that becomes one token."""
    width: Annotated[int, AtLeast(4)] = 128
    """Features of a token."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    bottleneck: Annotated[int | None, AtLeast(1)] = None
    """Features that a patch passes through on its way to the width; by default it has no bottleneck."""
    time_scale: Annotated[float, Between(0, 1000, "(]")] = 1000.0
    """What the fastest wave of time turns by from image to noise; 1 for teachers of rules that differentiate time."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Share of a block's features that training sets to zero."""
    recompute: Literal["cheap"] | None = None
    """"cheap" halves what blocks keep for the backward pass, and computes norms and activations again."""


def dit(settings: DiTSettings, images: ImageFormat, **told: Any) -> DiT:
    """The transformer for images of this format, which is `told` more; ValueError where the two don't fit."""
    return DiT(
        image_size=images.shape[1:],
        channels=images.channels,
        patch_size=settings.patch_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        classes=len(images.class_names),
        dropout=settings.dropout,
        bottleneck=settings.bottleneck,
        recompute=settings.recompute,
        time_scale=settings.time_scale,
        **told,
    )


def dit_system(
    settings: DiTSettings,
    images: ImageFormat,
    schedule: Schedule,
    prediction: Prediction | str,
    times: TimeSampling,
    *,
    sampler: str = "euler",
    **options: Any,
) -> PriorSystem:
    """The transformer with a `DiffusionObjective` of these and `options`, and `sampler` to draw with."""
    model = dit(settings, images)
    objective = DiffusionObjective(schedule, prediction, times, **options)
    return PriorSystem(*of_pixels(settings, images, model, objective, sampler))


def of_pixels(
    settings: DiffusionSettings,
    images: ImageFormat,
    model: nn.Module,
    objective: DiffusionObjective,
    sampler: str,
    **options: Any,
) -> tuple[DiffusionPrior, Labels, Pixels]:
    """A diffusion model of pixels as the three parts of a system, to draw with `sampler` and its `options`."""
    prior = DiffusionPrior(model, objective, drawing(settings, sampler, **options))
    return prior, classes_of(settings, images), Pixels(images.shape)


def classes_of(settings: DiffusionSettings, images: ImageFormat) -> Labels:
    """The classes of images, for networks that embed them."""
    return Labels(len(images.class_names), settings.label_drop)


def drawing(settings: DiffusionSettings, sampler: str, **options: Any) -> SamplerSettings:
    """How images are drawn, by `sampler` with its `options`."""
    check_interval(settings.guidance_interval)
    interval = settings.guidance_interval
    return SamplerSettings(settings.sampling_steps, settings.guidance, sampler, interval=interval, **options)

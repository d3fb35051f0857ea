"""MAR: patches of an image in random order, several in a step, each drawn by a small flow; without codes.

Li et al., "Autoregressive image generation without vector quantization", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..diffusion.masked_prior import MaskedPrior, MaskedSampling
from ..models.mar import MAR
from ..nn.class_condition import Labels
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_SAMPLING_STEPS
from ._images import held_out_images, training_images
from ._latents import LatentSettings, latents_or_pixels
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(LatentSettings):
    """A masked transformer over patches of pixels or of latents, with a flow for each patch."""

    first_stage: str = ""
    """The run of a tokenizer or autoencoder whose latents are drawn; without it pixels are."""
    patch_size: Annotated[int | None, AtLeast(1)] = None
    """Side of the squares that are drawn in one; by default 1 of latents and 4 of pixels."""
    width: Annotated[int, AtLeast(1)] = 128
    """Features of a patch in the transformer."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.1
    """Share of a block's features that training sets to zero."""
    flow_width: Annotated[int, AtLeast(1)] = 256
    """Features of the flow's MLP."""
    flow_depth: Annotated[int, AtLeast(1)] = 3
    """Residual blocks of the flow's MLP."""
    label_drop: Annotated[float, Between(0, 1)] = 0.1
    """Share of the images trained on without their label, which guidance needs."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 16
    """Steps in which the patches are drawn, several in each."""
    flow_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 25
    """Steps of the flow that draws a patch."""
    guidance: Annotated[float, Between(-1000, 1000)] = 2.0
    """Weight of classifier-free guidance at the last step, to which it grows from 1; 1 is none."""
    temperature: Annotated[float, Between(0, 1000)] = 1.0
    """Deviation of the noise that the flow begins with."""
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    sample_every: int = 1000


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    stage, remembered = latents_or_pixels(settings, images)
    channels, *sides = stage.shape
    patch = settings.patch_size or (1 if settings.first_stage else 4)
    if any(side % patch for side in sides):
        raise ValueError(f"patch_size must divide both sides of what is drawn, {sides[0]} and {sides[1]}, got {patch}")
    classes = len(images.class_names)
    model = MAR(
        [side // patch for side in sides],
        channels * patch**2,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        flow_width=settings.flow_width,
        flow_depth=settings.flow_depth,
        classes=classes,
        dropout=settings.dropout,
    )
    drawing = settings.sampling_steps, settings.guidance, settings.temperature, settings.flow_steps
    made = PriorSystem(MaskedPrior(model, patch, MaskedSampling(*drawing)), Labels(classes, settings.label_drop), stage)
    made.remembered = remembered
    return made


PRESETS: dict[str, dict[str, Any]] = {"digits": {"patch_size": 2}}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

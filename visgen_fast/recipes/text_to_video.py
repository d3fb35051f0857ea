"""Text to video: a diffusion transformer of clips, with a noise level for each frame, under captions or classes.

Chen et al., "Diffusion forcing: next-token prediction meets full-sequence diffusion", 2024; the transformer and the
captions are those of text to image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..diffusion.forcing import ForcingObjective
from ..diffusion.forcing_prior import ForcingPrior, FrameSamplerSettings
from ..diffusion.schedules import RectifiedFlow
from ..diffusion.times import UniformTimes
from ..models.causal_autoencoder import CausalEncoder
from ..models.dit import DiT
from ..nn.class_condition import Labels
from ..nn.text_condition import TextCondition
from ..systems.clips import ClipSystem
from ..tokenizers import KLAutoencoder
from ..tokenizers.first_stage import FirstStage
from ..training.bounds import AtLeast
from ._clips import ClipSettings, frames_in
from ._diffusion import HOURS, MINUTES, DiTSettings, classes_of
from ._images import held_out_images, training_images
from ._latents import LatentSettings, latents_or_pixels
from ._text import TextSettings, captions_of
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TextSettings, LatentSettings, DiTSettings, ClipSettings):
    """Rectified flow of clips."""

    dataset: str = "moving-digits"
    """moving-digits, or a folder of videos and GIFs, which may have one sub-folder a class, or captions in text files
    beside them."""
    first_stage: str = ""
    """The run of a video-tokenizer on clips of the same size; checkpoints keep its weights. By default pixels."""
    attention: Literal["classes", "pooled", "cross"] = "cross"
    """How captions reach the network: as numbers, each a class of its own, without a text encoder; as one vector; as
    tokens too, which patches attend to."""
    causal: bool = True
    """Frames see earlier ones alone."""
    frame_plan: Literal["together", "one_by_one", "pyramid"] = "together"
    """How clips are drawn: all frames at one level, each when the one before it is done, or each one step behind it."""
    patch_size: Annotated[int, AtLeast(1)] = 4
    batch_size: int = 32


def system(settings: Settings, images: ImageFormat) -> ClipSystem:
    """The system these settings describe, for clips of this format. ValueError where the two don't fit."""
    frames_in(images)
    if settings.guidance_interval is not None:
        raise ValueError(
            f"guidance_interval must be None where frames have levels of their own, got {settings.guidance_interval}"
        )
    stage, remembered = latents_or_pixels(settings, images, ("video-tokenizer",))
    condition: Labels = classes_of(settings, images)
    told: dict[str, Any] = {"classes": len(images.class_names)}
    if settings.attention != "classes":
        condition = TextCondition(captions_of(settings, images), settings.label_drop)
        features = condition.texts.width
        told = {"pooled": features, "tokens": features if settings.attention == "cross" else None}
    sampler = FrameSamplerSettings(settings.sampling_steps, settings.guidance, frame_plan=settings.frame_plan)
    objective = ForcingObjective(RectifiedFlow(), "velocity", UniformTimes())
    prior = ForcingPrior(network(settings, stage.shape, told), objective, sampler)
    made = ClipSystem(prior, condition, stage, clip_shape=images.shape, frame_reduction=_frame_reduction(stage))
    made.remembered = remembered
    return made


def network(settings: Settings, shape: tuple[int, ...], told: dict[str, Any]) -> DiT:
    """The transformer for clips, or latents of clips, of this shape, with the arguments `told` of what it is told."""
    channels, frames, height, width = shape
    return DiT(
        image_size=(frames, height, width),
        channels=channels,
        patch_size=settings.patch_size,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        dropout=settings.dropout,
        bottleneck=settings.bottleneck,
        time_scale=settings.time_scale,
        recompute=settings.recompute,
        mlp="swiglu",
        rotary=True,
        normalized=True,
        causal=settings.causal,
        **told,
    )


def _frame_reduction(stage: Any) -> int:
    """The frames of one latent."""
    if not isinstance(stage, FirstStage):
        return 1
    assert isinstance(stage.reconstructor, KLAutoencoder) and isinstance(stage.reconstructor.encoder, CausalEncoder)
    return stage.reconstructor.encoder.frame_reduction


PRESETS: dict[str, dict[str, Any]] = {
    # 80 captions are few enough to be classes.
    "moving-digits": {**MINUTES, "steps": 2200, "batch_size": 32, "patch_size": 5, "attention": "classes"},
    "clips": {**HOURS, "width": 256, "depth": 6},
}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

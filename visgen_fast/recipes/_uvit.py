"""What the recipes of pixels at growing resolution share: networks, and the schedule that follows the resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
from ..diffusion.derived_schedules import Shifted
from ..diffusion.objective import DiffusionObjective
from ..diffusion.schedules import CosineVP
from ..diffusion.self_conditioning import SelfConditionedPrior
from ..diffusion.times import UniformTimes
from ..models.hdit import HDiT
from ..models.rin import RIN
from ..models.uvit import UViT
from ..systems.prior import PriorSystem
from ..training.bounds import AtLeast, Between
from ..untrusted import MOST_IMAGE_SIDE, MOST_SAMPLING_STEPS
from ._diffusion import DAYS, HOURS, MINUTES, DiffusionSettings, of_pixels

UVIT_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {**MINUTES, "reference": 8, "patch_size": 1, "stages": (32,), "width": 96, "depth": 2},
    "fashion-mnist": {**MINUTES, "steps": 1500, "batch_size": 32, "sample_every": 500, "size": 64},
    **dict.fromkeys(
        ("photographs", "emoji"), {**HOURS, "size": 64, "reference": 32, "stages": (64, 128), "width": 256, "depth": 6}
    ),
    "folder": {**DAYS, "size": 128, "reference": 32, "stages": (64, 128), "width": 384, "depth": 8, "heads": 6},
}


@dataclass(frozen=True, kw_only=True)
class UViTSettings(DiffusionSettings):
    """A U-ViT (Hoogeboom et al., "Simple diffusion: end-to-end diffusion for high resolution images", 2023)."""

    network: Literal["uvit", "hdit", "rin"] = "uvit"
    """uvit: convolutions at high resolutions. hdit: attention within windows there (Crowson et al., 2024). rin: latents
    that read patches and write to them (Jabri et al., 2023)."""
    sampling_steps: Annotated[int, AtLeast(1), Between(1, MOST_SAMPLING_STEPS)] = 25
    """Steps of DPM-Solver++ of second order from noise to image."""
    reference: Annotated[float, Between(1, MOST_IMAGE_SIDE)] = 16.0
    """Side of the images for which the cosine schedule is not shifted; larger images get more noise."""
    first: Literal["patches", "wavelet"] = "patches"
    """How squares of pixels become positions of a uvit: as they are, or as the bands of a 5/3 wavelet."""
    patch_size: Annotated[int, AtLeast(1)] = 2
    """Side of the square of pixels that becomes one position; a power of 2 for a wavelet."""
    stages: Annotated[tuple[int, ...], AtLeast(1)] = (32, 64)
    """Features of the stages at high resolutions, each of half the resolution of the one before; of rin, whose patches
    are of one resolution, the last number."""
    blocks: Annotated[int, AtLeast(1)] = 1
    """Blocks of a stage on the way down, and again on the way up."""
    width: Annotated[int, AtLeast(4)] = 128
    """Features of a token of the transformer, at half the resolution of the last stage; of rin, of a latent."""
    depth: Annotated[int, AtLeast(1)] = 4
    """Transformer blocks; of rin, in each round."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads of a block."""
    dropout: Annotated[float, Between(0, 1, "[)")] = 0.1
    """Share of a transformer block's features that training sets to zero; the convolutions have none."""
    latents: Annotated[int, AtLeast(1)] = 64
    """Of rin: how many latents."""
    rounds: Annotated[int, AtLeast(1)] = 3
    """Of rin: how often latents read, work and write."""
    self_conditioning: Annotated[float, Between(0, 1)] = 0.5
    """Of rin: share of the images whose latents begin in training as a first pass left them; drawing begins with those
    of the step before. 0 for none of both."""


def uvit_system(
    settings: UViTSettings, images: ImageFormat, skips: Literal["blocks", "residual"], **options: Any
) -> PriorSystem:
    """The network with its objective.

    skips: of a U-ViT; options: of the objective. ValueError where settings and images don't fit.
    """
    model, objective = network(settings, images, skips), shifted_objective(settings, images, **options)
    parts = of_pixels(settings, images, model, objective, "dpm++2m")
    if isinstance(model, RIN):
        prior = SelfConditionedPrior(model, objective, parts[0].sampler, settings.self_conditioning)
        return PriorSystem(prior, *parts[1:])
    return PriorSystem(*parts)


def network(
    settings: UViTSettings, images: ImageFormat, skips: Literal["blocks", "residual"], given: int = 0
) -> UViT | HDiT | RIN:
    """The network for images of this format, which is told λ; skips: of a U-ViT; given: as of `UViT`, not for a RIN."""
    sizes: dict[str, Any] = {
        "image_size": (images.height, images.width),
        "channels": images.channels,
        "patch_size": settings.patch_size,
        "classes": len(images.class_names),
        "dropout": settings.dropout,
        "conditioning": "log_snr",
    }
    widths, blocks = (*settings.stages, settings.width), settings.blocks
    if settings.network != "uvit" and settings.first != "patches":
        raise ValueError(f"first must be patches for the network {settings.network}, got {settings.first}")
    if settings.network == "hdit":
        depths = (*[blocks] * len(settings.stages), settings.depth)
        heads = [max(1, width * settings.heads // settings.width) for width in widths]  # of about as many features
        return HDiT(widths=widths, depths=depths, heads=heads, given=given, **sizes)
    sizes |= {"width": settings.width, "depth": settings.depth, "heads": settings.heads}
    if settings.network == "rin":
        interface = (settings.width, *settings.stages)[-1]
        return RIN(interface=interface, latents=settings.latents, blocks=settings.rounds, **sizes)
    return UViT(stages=settings.stages, first=settings.first, blocks=blocks, skips=skips, given=given, **sizes)


def shifted_objective(settings: UViTSettings, images: ImageFormat, **options: Any) -> DiffusionObjective:
    """Of a network that predicts v and is told λ, on the cosine schedule shifted to the images' resolution."""
    schedule = Shifted(CosineVP(), settings.reference, resolution(images))
    return DiffusionObjective(schedule, "v", UniformTimes(), conditioning="log_snr", **options)


def resolution(images: ImageFormat) -> float:
    """The side of a square of as many pixels."""
    return math.sqrt(images.height * images.width)

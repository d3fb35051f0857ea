"""What priors of latents share, whatever they are: the first stage with its cache, and how far times are shifted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..data.images import ImageFormat
from ..diffusion.times import LogitNormalTimes
from ..errors import UserError
from ..tokenizers.first_stage import FirstStage, Pixels
from ..training.bounds import Between
from ._first_stage import KINDS, RunBelow, run_below

AUTOENCODERS = ("autoencoder", "kl-autoencoder", "pyramid-autoencoder", "representation-autoencoder")
# VQ-VAE-2 has latents on two grids.
OF_ONE_GRID = (*(kind for kind in KINDS if kind != "vq-vae-2"), *AUTOENCODERS)
# Numbers of latents whose times are not shifted.
_UNSHIFTED = 4096


@dataclass(frozen=True, kw_only=True)
class LatentSettings(RunBelow):
    """A prior of latents."""

    cache: str = ""
    """A folder to keep the latents of all images in, made at the first use; by default every step encodes its own."""

    def __post_init__(self) -> None:
        if isinstance(self.cache, str) and self.cache:
            object.__setattr__(self, "cache", str(Path(self.cache).absolute()))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ShiftedSettings(LatentSettings):
    """A diffusion prior of latents."""

    time_shift: Annotated[float | None, Between(1, 1000)] = None
    """How far training and sampling are moved towards noise; by default the root of the latents' numbers over 4096,
    but at least 1, as for representation autoencoders."""


def latents_of(
    settings: LatentSettings, images: ImageFormat, kinds: Sequence[str] = OF_ONE_GRID
) -> tuple[FirstStage, dict[str, Any]]:
    """The first stage of the run that the settings name, with its cache; and what checkpoints remember of it.

    The run is one of the recipes `kinds`. `UserError` as of `run_below`.
    """
    below = run_below(settings, images, kinds)
    stage = FirstStage(below.reconstructor, images.shape)
    stage.cache = Path(settings.cache) if settings.cache else None
    return stage, {"first_stage": below.origin}


def latents_or_pixels(
    settings: LatentSettings, images: ImageFormat, kinds: Sequence[str] = OF_ONE_GRID
) -> tuple[FirstStage | Pixels, dict[str, Any]]:
    """The same, or the place of one where the settings name none; `UserError` for a cache of nothing."""
    if settings.first_stage:
        return latents_of(settings, images, kinds)
    if settings.cache:
        raise UserError(f"--cache keeps the latents of a --first-stage, and only --cache {settings.cache} was given")
    return Pixels(images.shape), {}


def shifted_times(settings: ShiftedSettings, stage: FirstStage | Pixels) -> tuple[LogitNormalTimes, float | None]:
    """Logit-normal times of training, and the same shift of those of sampling, None for none.

    t' = s·t/(1 + (s − 1)·t) adds ln s to the logit of t. Zheng et al., "Diffusion transformers with representation
    autoencoders", 2025, section 4.
    """
    own = math.prod(stage.shape) if isinstance(stage, FirstStage) else 0
    shift = settings.time_shift or max(1.0, math.sqrt(own / _UNSHIFTED))
    return LogitNormalTimes(mean=math.log(shift), std=1.0), None if shift == 1 else shift

"""DSB: a Schrödinger bridge from noise, or from other images, by trajectories that are reversed in turns.

De Bortoli et al., "Diffusion Schrödinger bridge with applications to score-based generative modeling", 2021; Tang et
al., "Simplified diffusion Schrödinger bridge", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..data.images import ImageFormat
from ..systems.schrodinger import TrajectorySystem
from ._bridges import SchroedingerSettings, held_out_start, in_turns, start_images
from ._diffusion import DIT_PRESETS
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(SchroedingerSettings):
    """DSB, given the class."""

    target: Literal["mean", "previous", "terminal", "flow"] = "mean"
    """What a network learns of a trajectory: the state before, without the noise or as it was; where it began; or the
    way there over the time that it took."""


def system(settings: Settings, images: ImageFormat) -> TrajectorySystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    positional, options = in_turns(settings, images, drifts=settings.target != "terminal")
    return TrajectorySystem(*positional, target=settings.target, **options)


RECIPE = Recipe(Settings, start_images, system, held_out_start, DIT_PRESETS)

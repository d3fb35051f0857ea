"""DSB matching: a Schrödinger bridge from noise, or from other images, by Brownian bridges coupled anew in turns.

Shi et al., "Diffusion Schrödinger bridge matching", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.images import ImageFormat
from ..systems.schrodinger import MatchingSystem
from ._bridges import SchroedingerSettings, held_out_start, in_turns, start_images
from ._diffusion import DIT_PRESETS
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(SchroedingerSettings):
    """DSB matching, given the class."""


def system(settings: Settings, images: ImageFormat) -> MatchingSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    positional, options = in_turns(settings, images)
    return MatchingSystem(*positional, **options)


RECIPE = Recipe(Settings, start_images, system, held_out_start, DIT_PRESETS)

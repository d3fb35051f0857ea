"""Lagrangian flow maps: a few-step model whose ends move with the velocity where they are.

Boffi, Albergo and Vanden-Eijnden, "How to build a consistency model: learning flow maps via self-distillation", 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.images import ImageFormat
from ..systems.student import TrajectoryStudent
from ._images import all_images
from ._students import PRESETS, TimedSettings, trajectory_student
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(TimedSettings):
    """A Lagrangian flow map of the classes' images."""


def system(settings: Settings, images: ImageFormat) -> TrajectoryStudent:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    return trajectory_student("lagrangian", settings, images)


RECIPE = Recipe(Settings, all_images, system, presets=PRESETS)

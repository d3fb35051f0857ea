"""Real NVP: a normalizing flow of couplings at several resolutions; reports bits per dimension.

Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..data.images import ImageFormat
from ..flows.real_nvp import RealNVP
from ..systems.flow import FlowSystem
from ..training.bounds import AtLeast
from ._flows import FLOW_PRESETS, FlowSettings, flow_system
from ._images import held_out_images, training_images
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings(FlowSettings):
    """Real NVP, given the class."""

    resolutions: Annotated[int, AtLeast(1)] = 3
    """The images' own and those below it, each half of the one before, where half of the values leave."""
    couplings: Annotated[int, AtLeast(1)] = 3
    """Couplings of each resolution, before and after its pixels become channels."""


def system(settings: Settings, images: ImageFormat) -> FlowSystem:
    """The system these settings describe, for images of this format. ValueError where the two don't fit."""
    return flow_system(settings, images, RealNVP, levels=settings.resolutions, couplings=settings.couplings)


_DIGITS = {**FLOW_PRESETS["digits"], "resolutions": 2, "width": 32, "depth": 1, "learning_rate": 2e-3}
PRESETS = {**FLOW_PRESETS, "digits": _DIGITS}
RECIPE = Recipe(Settings, training_images, system, held_out_images, PRESETS)

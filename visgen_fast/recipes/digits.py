"""Handwritten digits, 8×8 grey, by class-conditional rectified flow: a few minutes on two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..data.images import ImagesInMemory
from ..data.images import digits as load_digits
from ._rectified_flow import RectifiedFlowSettings
from ._rectified_flow import rectified_flow_system as system

__all__ = ["Settings", "images", "system"]


@dataclass(frozen=True, kw_only=True)
class Settings(RectifiedFlowSettings):
    """Class-conditional rectified flow on scikit-learn's 1797 digits."""

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema_decay: float = 0.99
    sample_every: int = 250
    checkpoint_every: int = 250


def images(settings: Settings) -> ImagesInMemory:
    """The digits that come with scikit-learn."""
    return load_digits()

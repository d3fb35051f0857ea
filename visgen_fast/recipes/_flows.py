"""What the recipes of normalizing flows share: levels of pixels, and how images are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..flows.dequantization import Dequantization
from ..flows.flow import Flow
from ..systems.flow import FlowSampling, FlowSystem
from ..training.bounds import AtLeast, Between
from ._images import ImageSettings

FLOW_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"levels": 17, "steps": 1000, "checkpoint_every": 500, "sample_every": 500, "ema_decay": 0.99},
}


@dataclass(frozen=True, kw_only=True)
class FlowSettings(ImageSettings):
    """A class-conditional normalizing flow."""

    levels: Annotated[int, Between(2, 256)] = 256
    """Values of a pixel; digits have 17."""
    temperature: Annotated[float, Between(0, 1000)] = 1.0
    """What the noise is multiplied by that images are drawn from; below 1 they are nearer the most probable ones."""
    width: Annotated[int, AtLeast(1)] = 64
    """Features of each network."""
    depth: Annotated[int, AtLeast(1)] = 2
    """Residual or transformer blocks of each network."""
    dataset: str = "digits"
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    sample_every: int = 5000


def flow_system(
    settings: FlowSettings, flow: Flow, *, noise: float = 0.0, guidance: float = 1.0, label_drop: float = 0.0
) -> FlowSystem:
    """The flow of pixels with normal noise of that width, or uniform noise for 0, to draw with as the settings say."""
    drawing = FlowSampling(guidance, settings.temperature)
    return FlowSystem(flow, Dequantization(settings.levels, noise), drawing, label_drop)

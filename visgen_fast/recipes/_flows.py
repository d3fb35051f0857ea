"""What the recipes of normalizing flows share: levels of pixels, and how images are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ..data.images import ImageFormat
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
    noise: Annotated[float, Between(0, 1)] = 0.0
    """Standard deviation of the normal noise of training, which drawn images are cleaned of; 0 is uniform noise as wide
    as a level, which gives the fewest bits."""
    label_drop: Annotated[float, Between(0, 1)] = 0.0
    """Share of the images trained on without their label, which guidance needs."""
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
    settings: FlowSettings, images: ImageFormat, network: Callable[..., Flow], *, guidance: float = 1.0, **sizes: int
) -> FlowSystem:
    """A flow of images of this format, to draw with as the settings say.

    network: makes it of the format, of what all flows are told, and of its own `sizes`. ValueError where these don't
    fit together.
    """
    flow = network(
        image_size=(images.height, images.width),
        channels=images.channels,
        classes=len(images.class_names),
        width=settings.width,
        depth=settings.depth,
        **sizes,
    )
    drawing = FlowSampling(guidance, settings.temperature)
    return FlowSystem(flow, Dequantization(settings.levels, settings.noise), drawing, settings.label_drop)

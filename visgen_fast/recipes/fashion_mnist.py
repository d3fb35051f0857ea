"""Fashion-MNIST, 28×28 grey, by class-conditional rectified flow: meant for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..data.idx import FASHION_MNIST_FOLDER, fashion_mnist
from ..data.images import ImagesInMemory
from ._rectified_flow import RectifiedFlowSettings
from ._rectified_flow import rectified_flow_system as system

__all__ = ["Settings", "images", "system"]


@dataclass(frozen=True, kw_only=True)
class Settings(RectifiedFlowSettings):
    """Class-conditional rectified flow on the 60 000 training images of Fashion-MNIST."""

    data: str = str(FASHION_MNIST_FOLDER)
    """Folder with the IDX files, gzipped or not; the Debian package dataset-fashion-mnist has them."""
    steps: int = 20_000
    width: int = 256
    depth: int = 6
    learning_rate: float = 5e-4
    ema_decay: float = 0.9995


def images(settings: Settings) -> ImagesInMemory:
    """The training part, from the folder `settings.data`."""
    return fashion_mnist(Path(settings.data))

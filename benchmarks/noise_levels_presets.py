"""What the study of noise levels trains on: images, networks and the length of a run, for a CPU and for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visgen_fast import ops
from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.images import ImageFormat, Images, ImagesInMemory, Part
from visgen_fast.data.photographs import photographs
from visgen_fast.errors import UserError
from visgen_fast.models import DiT, UViT

from .noise_levels_variants import FIRST_FOUR, LARGE_PATCHES, VARIANTS

LARGE_PHOTOGRAPHS = Path("/usr/share/backgrounds/mate/nature")
_HELD_OUT = 2000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How all variants on a data set are trained.

    images: the training images and those held out, given the folder of large photographs; network: given the images'
    format and whether patches are large; the rest is as of the training's settings. pictures: held out and measured at
    each level; samples: drawn for the kernel distance.
    """

    images: Callable[[Path], tuple[Images, Images]]
    network: Callable[[ImageFormat, bool], nn.Module]
    variants: tuple[str, ...] = FIRST_FOUR
    seeds: int = 3
    steps: int = 800
    batch_size: int = 32
    learning_rate: float = 2e-3
    pictures: int = 512
    samples: int = 1000
    mixed_precision: Literal["no", "bf16"] = "no"
    device: Literal["auto", "cpu"] = "cpu"


def _fashion_mnist(folder: Path) -> tuple[Images, Images]:
    data, size = DATASETS["fashion-mnist"], 64
    assert data.held_out is not None
    return data.train(None, size), data.held_out(None, size)


def _photographs(folder: Path) -> tuple[Images, Images]:
    """Crops of the same five photographs for training and held out; of which photograph, is their class."""
    crops = photographs(64)
    # They come in turn.
    images = ImagesInMemory(crops.pixels, torch.arange(len(crops)) % 5, [f"photograph {n}" for n in range(1, 6)])
    return _parts(images)


def _parts(images: Images) -> tuple[Images, Images]:
    kept = len(images) - _HELD_OUT
    return Part(images, range(kept)), Part(images, range(kept, len(images)))


class Crops:
    """20 000 crops of size×size pixels from the photographs of a folder, in turn, cut twice as large and shrunk.

    `UserError` where the folder holds no photograph of four times the size.
    """

    def __init__(self, folder: Path, size: int) -> None:
        from PIL import Image

        self.size = size
        paths = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
        opened = [torch.from_numpy(_pixels(Image.open(path))).permute(2, 0, 1) for path in paths]
        self.photographs = [one for one in opened if min(one.shape[1:]) >= 4 * size]
        if not self.photographs:
            raise UserError(
                f"{folder} holds no photograph (.jpg) of {4 * size} pixels a side: install the Debian package "
                "mate-backgrounds, or give another folder as --data"
            )
        names = tuple(f"photograph {number + 1}" for number in range(len(self.photographs)))
        self.format = ImageFormat(height=size, width=size, channels=3, class_names=names)

    def __len__(self) -> int:
        return 20_000

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        places = torch.tensor([*indices])
        drawn = 1 - ops.uniform(ops.derive_seeds(0, places), (2,), dtype=torch.float64)
        labels = places % len(self.photographs)
        cuts = [self._cut(self.photographs[label], *at) for label, at in zip(labels, drawn.tolist(), strict=True)]
        return torch.stack(cuts), labels, ()

    def _cut(self, photograph: Tensor, down: float, right: float) -> Tensor:
        side = 2 * self.size
        _, height, width = photograph.shape
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        cut = photograph[:, top : top + side, left : left + side].float()
        return F.avg_pool2d(cut, 2).round().to(torch.uint8)


def _pixels(image: Any) -> Any:
    import numpy as np

    return np.array(image.convert("RGB"))


def _dit(width: int, depth: int) -> Callable[[ImageFormat, bool], nn.Module]:
    """64 tokens, or 16 of large patches."""

    def network(images: ImageFormat, large_patches: bool) -> nn.Module:
        patch_size = images.size // 4 if large_patches else images.size // 8
        return DiT(
            image_size=images.size,
            channels=images.channels,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=4,
            classes=len(images.class_names),
            conditioning="log_snr",
        )

    return network


def _uvit(images: ImageFormat, large_patches: bool) -> nn.Module:
    """25 million parameters, most of them at 16×16 positions; large patches are none of its."""
    stages = (128, 192) if images.size <= 128 else (64, 128, 192)
    return UViT(
        image_size=images.size,
        channels=images.channels,
        patch_size=images.size // (16 * 2 ** len(stages)),
        stages=stages,
        blocks=2,
        width=384,
        depth=8,
        heads=6,
        classes=len(images.class_names),
        conditioning="log_snr",
    )


_OF_A_GPU: dict[str, Any] = {
    **{"network": _uvit, "seeds": 1, "learning_rate": 5e-4, "samples": 500},
    **{"mixed_precision": "bf16", "device": "auto"},
}
PRESETS: dict[str, dict[str, Setting]] = {
    "cpu": {
        "fashion-mnist": Setting(images=_fashion_mnist, network=_dit(96, 4), variants=tuple(VARIANTS)),
        # A patch of 8×8 colours, 192 numbers, must be smaller than a token, lest v and ε fail for that reason alone.
        "photographs": Setting(images=_photographs, network=_dit(256, 3), variants=(*FIRST_FOUR, *LARGE_PATCHES)),
    },
    "gpu": {
        "photographs-128": Setting(images=lambda folder: _parts(Crops(folder, 128)), steps=2500, **_OF_A_GPU),
        "photographs-256": Setting(images=lambda folder: _parts(Crops(folder, 256)), steps=1500, **_OF_A_GPU),
    },
}


def changed(setting: Setting, **given: int | None) -> Setting:
    """The setting with what was given otherwise."""
    return replace(setting, **{name: value for name, value in given.items() if value is not None})

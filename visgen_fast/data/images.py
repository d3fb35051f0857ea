"""What a data set is to the rest of the library, and the images that live in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Images that are drawn or measured in one go.
AT_A_TIME = 100


@dataclass(frozen=True)
class ImageFormat:
    """What a network must know about the images: square uint8 images [channels, size, size] of named classes."""

    size: int
    channels: int
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "channels": self.channels, "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ImageFormat:
        return cls(content["size"], content["channels"], tuple(content["class_names"]))


class Images(Protocol):
    """A data set: its length, its format, and its images by index."""

    format: ImageFormat

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Pixels uint8 [B, C, H, W], labels int64 [B], and one sentence for each file that turned out unreadable."""


def to_range(pixels: Tensor) -> Tensor:
    """Pixels uint8 as float32 in [−1, 1]."""
    return pixels.float() / 127.5 - 1


def in_chunks(images: Images, device: torch.device, *, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """All `images` or the first `most`, on `device`: float32 [≤ AT_A_TIME, C, H, W] in [−1, 1], and labels int64."""
    for indices in torch.arange(len(images))[:most].split(AT_A_TIME):
        pixels, labels, _ = images.read(indices.tolist())
        yield to_range(pixels.to(device)), labels.to(device)


class ImagesInMemory:
    """Pixels uint8 [N, C, S, S] with labels int64 [N]."""

    def __init__(self, pixels: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
        self.pixels, self.labels = pixels, labels
        self.format = ImageFormat(pixels.shape[-1], pixels.shape[1], tuple(class_names))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        chosen = torch.as_tensor(indices)
        return self.pixels[chosen], self.labels[chosen], ()


class Part:
    """Some of the images of another source, by their indices."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images, self.indices, self.format = images, indices, images.format

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        return self.images.read([self.indices[index] for index in indices])


def training_part(images: Images, *, every: int = 10) -> Part:
    """All images but those of `held_out_part`."""
    return Part(images, [index for index in range(len(images)) if index % every])


def held_out_part(images: Images, *, every: int = 10) -> Part:
    """The first of each `every` images, which a source without a test part of its own keeps from training."""
    return Part(images, range(0, len(images), every))


def digits() -> ImagesInMemory:
    """The 1797 handwritten digits of 8×8 grey pixels that come with scikit-learn (UCI ML repository, 1998)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # The pixels count ink from 0 to 16.
    pixels = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return ImagesInMemory(pixels, torch.from_numpy(data.target).long(), [str(digit) for digit in range(10)])

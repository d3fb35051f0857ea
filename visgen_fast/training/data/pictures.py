"""What a data set is to the rest of the library, and the pictures that live in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class PictureFormat:
    """What a network must know about the pictures: square uint8 pictures [channels, size, size] of named classes."""

    size: int
    channels: int
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.channels, self.size, self.size)

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "channels": self.channels, "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PictureFormat:
        return cls(content["size"], content["channels"], tuple(content["class_names"]))


class Pictures(Protocol):
    """A data set: its length, its format, and its pictures by index."""

    format: PictureFormat

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Pixels uint8 [B, C, H, W], labels int64 [B], and one sentence for each file that turned out unreadable."""


class PicturesInMemory:
    """Pixels uint8 [N, C, S, S] with labels int64 [N]."""

    def __init__(self, pixels: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
        self.pixels, self.labels = pixels, labels
        self.format = PictureFormat(pixels.shape[-1], pixels.shape[1], tuple(class_names))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        chosen = torch.as_tensor(indices)
        return self.pixels[chosen], self.labels[chosen], ()


def digits() -> PicturesInMemory:
    """The 1797 handwritten digits of 8×8 grey pixels that come with scikit-learn (UCI ML repository, 1998)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # The pixels count ink from 0 to 16.
    pixels = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return PicturesInMemory(pixels, torch.from_numpy(data.target).long(), [str(digit) for digit in range(10)])

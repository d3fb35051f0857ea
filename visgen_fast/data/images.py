"""What a data set is to the rest of the library, and the images that live in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Unreachable, UserError
from ..untrusted import MOST_CHANNELS, MOST_CHARACTERS_OF_A_CLASS, MOST_CLASSES, MOST_FRAMES, MOST_IMAGE_SIDE

# Images that are drawn or measured in one go.
AT_A_TIME = 100
_HELD_OUT_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What a network must know about the images: uint8 [channels, height, width], of classes that have names.

    A label is an index into `class_names`. With `captions`, these are words about one image each, rather than classes
    of many images. `frames` is the length of clips, uint8 [channels, frames, height, width], and None for images.
    """

    height: int
    width: int
    channels: int
    class_names: tuple[str, ...]
    captions: bool = False
    frames: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one image, or of one clip."""
        return (self.channels, *(() if self.frames is None else (self.frames,)), self.height, self.width)

    @property
    def size(self) -> int:
        """The side of square images; ValueError for others."""
        if self.height != self.width:
            raise ValueError(f"the images must be square for this network, got {self.height}×{self.width} pixels")
        return self.height

    def some_labels(self, most: int) -> list[int]:
        """All labels, or `most` of them, spread evenly over all."""
        return evenly(len(self.class_names), most)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ImageFormat:
        """The format that `to_json` described, within the bounds of `untrusted`.

        KeyError, TypeError or ValueError where it describes none.
        """
        values = {name: content[name] for name in cls.__dataclass_fields__}
        _require_format(values)
        return cls(**{**values, "class_names": tuple(values["class_names"])})


def _require_format(values: dict[str, Any]) -> None:
    """Raises TypeError or ValueError unless these are values of an `ImageFormat`, within bounds."""
    sizes = {"height": MOST_IMAGE_SIDE, "width": MOST_IMAGE_SIDE, "channels": MOST_CHANNELS, "frames": MOST_FRAMES}
    for name, most in sizes.items():
        if name == "frames" and values[name] is None:
            continue
        if type(values[name]) is not int or not 1 <= values[name] <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}")
    names = values["class_names"]
    if type(names) is not list or not all(type(name) is str for name in names) or type(values["captions"]) is not bool:
        raise TypeError("class_names must be texts, and captions True or False")
    if not 1 <= len(names) <= MOST_CLASSES or max(map(len, names)) > MOST_CHARACTERS_OF_A_CLASS:
        raise ValueError(f"there must be 1 to {MOST_CLASSES} classes, of at most {MOST_CHARACTERS_OF_A_CLASS} letters")


class Images(Protocol):
    """A data set: its length, its format, and its images by index."""

    format: ImageFormat

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Pixels uint8 [B, *format.shape], labels int64 [B], and one sentence for each file found unreadable."""


def fingerprint(images: Images) -> str | None:
    """What tells a source's content from any other's without reading it, None where nothing does.

    A source that can has a method `fingerprint`: of files, their names, sizes and times.
    """
    own = getattr(images, "fingerprint", None)
    inside = None if own is None else own()
    return None if inside is None else sha256_of(inside, images.format.to_json())


def sha256_of(*parts: object) -> str:
    """The SHA-256 of what JSON can write."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def of_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """The SHA-256 of the names of files, their sizes and the times of their last change."""
    found = ((os.fspath(path), os.stat(path)) for path in paths)
    return sha256_of([(path, stat.st_size, stat.st_mtime_ns) for path, stat in found])


def readable_ones(
    length: int, indices: Sequence[int], read: Callable[[int], Tensor], where: str
) -> tuple[Tensor, list[int], tuple[str, ...]]:
    """The images at `indices` of `length`, by `read`; one that raises stands back for the next, always the same.

    Returns them stacked, the indices of those that were read, and a sentence for each that was not. `UserError` where
    none is left; `Unreachable` as it was raised.
    """
    images: list[Tensor] = []
    chosen: list[int] = []
    complaints: list[str] = []
    for index in indices:
        for candidate in range(index, index + length):
            try:
                images.append(read(candidate % length))
                chosen.append(candidate % length)
                break
            except Unreachable:
                raise
            except Exception as error:  # of many types
                complaints.append(str(error))
        else:
            raise UserError(f"none of the images in {where} can be decoded any more")
    return torch.stack(images), chosen, tuple(complaints)


def evenly(count: int, most: int) -> list[int]:
    """The indices below `count`, or `most` of them, spread evenly over all."""
    places = min(most, count)
    return [place * count // places for place in range(places)]


def at_a_time(format: ImageFormat) -> int:
    """How many images are measured in one go: AT_A_TIME, or clips of about so many frames."""
    return max(1, AT_A_TIME // (format.frames or 1))


def to_range(pixels: Tensor) -> Tensor:
    """Pixels uint8 as float32 in [−1, 1]."""
    return pixels.float() / 127.5 - 1


def frames_of(images: Tensor) -> Tensor:
    """The frames of clips [B, C, T, H, W] as images [B·T, C, H, W], a clip's in a row; images as they are."""
    return images if images.dim() == 4 else images.transpose(1, 2).flatten(0, 1)


def as_pixels(images: Tensor, least_side: int) -> np.ndarray:
    """Images [..., 1 or 3, H, W] in [−1, 1] as uint8 RGB [..., H, W, 3], to be looked at.

    Small ones are enlarged by a whole factor, without smoothing, until their sides are about `least_side`.
    """
    scale = max(1, round(least_side / images.shape[-2]))
    pixels = ((images.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte().movedim(-3, -1).numpy()
    return np.broadcast_to(pixels, (*pixels.shape[:-1], 3)).repeat(scale, -3).repeat(scale, -2)


def in_chunks(images: Images, device: torch.device, *, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """All `images` or the first `most`, on `device`: float32 [≤ AT_A_TIME, C, H, W] in [−1, 1], and labels int64."""
    for indices in torch.arange(len(images))[:most].split(at_a_time(images.format)):
        pixels, labels, _ = images.read(indices.tolist())
        yield to_range(pixels.to(device)), labels.to(device)


def labels_of(images: Images) -> Tensor:
    """The labels of all images, int64 [N]."""
    indices = torch.arange(len(images)).split(AT_A_TIME)
    return torch.cat([images.read(some.tolist())[1] for some in indices]).long()


class ImagesInMemory:
    """Pixels uint8 [N, C, H, W], or [N, C, T, H, W] for clips, with labels int64 [N] of named classes or captions."""

    def __init__(self, pixels: Tensor, labels: Tensor, class_names: Sequence[str], *, captions: bool = False) -> None:
        self.pixels, self.labels = pixels, labels
        channels, *frames, height, width = pixels.shape[1:]
        self.format = ImageFormat(
            height=height,
            width=width,
            channels=channels,
            class_names=tuple(class_names),
            captions=captions,
            frames=frames[0] if frames else None,
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        chosen = torch.as_tensor(indices)
        return self.pixels[chosen], self.labels[chosen], ()

    def fingerprint(self) -> str:
        parts = (tensor.contiguous().numpy().tobytes() for tensor in (self.pixels, self.labels))
        return sha256_of([hashlib.sha256(part).hexdigest() for part in parts])


class Resized:
    """The images of another source at size×size pixels, by antialiased bicubic interpolation when they are read."""

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.format = images, replace(images.format, height=size, width=size)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        pixels, labels, complaints = self.images.read(indices)
        # In uint8 this is what Pillow computes, to one unit.
        return F.interpolate(pixels, self.format.shape[-2:], mode="bicubic", antialias=True), labels, complaints

    def fingerprint(self) -> str | None:
        return fingerprint(self.images)


def resized(images: Images, size: int) -> Images:
    """`images` at size×size pixels: themselves where nothing changes, else `Resized`."""
    return images if images.format.shape[-2:] == (size, size) else Resized(images, size)


class Part:
    """Some of the images of another source, by their indices."""

    def __init__(self, images: Images, indices: Sequence[int] | np.ndarray) -> None:
        # An array, which holds no object for each of a million.
        self.images, self.indices, self.format = images, np.asarray(indices, np.int64), images.format

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        return self.images.read(self.indices[np.asarray(indices, np.int64)].tolist())

    def fingerprint(self) -> str | None:
        inside = fingerprint(self.images)
        return None if inside is None else sha256_of(inside, hashlib.sha256(self.indices.tobytes()).hexdigest())


def class_part(images: Images, label: int) -> Part:
    """Those of one class."""
    return Part(images, (labels_of(images) == label).nonzero().squeeze(1).tolist())


def training_part(images: Images) -> Part:
    """All images but those of `held_out_part`."""
    numbers = np.arange(len(images))
    return Part(images, numbers[numbers % _HELD_OUT_EVERY != 0])


def held_out_part(images: Images) -> Part:
    """The first of every ten images, which a source without a test part of its own keeps from training."""
    return Part(images, range(0, len(images), _HELD_OUT_EVERY))


def digits() -> ImagesInMemory:
    """The 1797 handwritten digits of 8×8 grey pixels that come with scikit-learn (UCI ML repository, 1998)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # The pixels count ink from 0 to 16.
    pixels = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return ImagesInMemory(pixels, torch.from_numpy(data.target).long(), [str(digit) for digit in range(10)])

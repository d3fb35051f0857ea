"""Pictures of several aspect ratios: each is cropped to the shape of its bucket, and every batch is of one bucket."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import UserError
from .images import Images, Part, fingerprint, sha256_of

_WIDEST = 2.0  # sides of the last bucket
_STEPS = 4  # of a square's side, to which sides are rounded


class Buckets:
    """Images in buckets: `read` crops all to squares, as figures show them, `read_batch` as training sees them.

    shapes: (height, width) of each bucket; numbers: the bucket of each image, int64 [N].
    """

    def __init__(self, images: Images, shapes: Sequence[tuple[int, int]], numbers: Tensor) -> None:
        self.images, self.format, self.shapes, self.numbers = images, images.format, tuple(shapes), numbers
        self.shaped = [_shaped(images, shape) for shape in shapes]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        return self.images.read(indices)

    def read_batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Images of one bucket, in its shape."""
        return self.shaped[int(self.numbers[indices[0]])].read(indices)

    def fingerprint(self) -> str | None:
        inside = fingerprint(self.images)
        return None if inside is None else sha256_of(inside, self.shapes)


class OrderOfBuckets:
    """Position → index of the data, where the `batch_size` positions of a step are of one bucket.

    An epoch has every image once, and some of each bucket twice, to fill its last batch; the batches of all buckets
    are mixed. Like `EndlessPermutation` it depends on the seed alone.
    """

    def __init__(self, numbers: Tensor, batch_size: int, seed: int) -> None:
        self.numbers, self.batch_size, self.seed = numbers, batch_size, seed
        self._batches = sum(-(-count // batch_size) for count in numbers.bincount().tolist())
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        """The indices of its batches, int64 [batches, batch_size]."""
        if epoch not in self._epochs:
            seed = ops.derive_seeds(self.seed, torch.tensor([epoch]), purpose=ops.Purpose.DATA_ORDER)
            generator = torch.Generator().manual_seed(int(seed))
            mixed = torch.randperm(len(self.numbers), generator=generator)
            by_bucket = mixed[self.numbers[mixed].argsort(stable=True)]
            batches = []
            for members in by_bucket.split([count for count in self.numbers.bincount().tolist() if count]):
                rows = -(-len(members) // self.batch_size)
                places = torch.arange(rows * self.batch_size) % len(members)
                batches.append(members[places].view(rows, self.batch_size))
            found = torch.cat(batches)
            self._epochs = {kept: self._epochs[kept] for kept in sorted(self._epochs)[-1:]}
            self._epochs[epoch] = found[torch.randperm(len(found), generator=generator)]
        return self._epochs[epoch]

    def __call__(self, positions: Tensor) -> Tensor:
        """Indices int64 [B] of positions int64 [B], all of one step."""
        step = int(positions[0]) // self.batch_size
        return self._epoch(step // self._batches)[step % self._batches][positions % self.batch_size]


def in_buckets(images: Images, count: int) -> Buckets:
    """Images in `count` buckets, from twice as high to twice as wide, each in the one nearest to its own aspect ratio.

    All have about as many pixels as the images' square; sides are multiples of a quarter of its side. The headers of
    all images are read; one that cannot be read counts as square. `UserError` unless the images are files.
    """
    size = images.format.size
    step = max(1, size // _STEPS)
    wanted = [2 ** (2 * place / (count - 1) - 1) if count > 1 else 1.0 for place in range(count)]
    shapes = list(dict.fromkeys(_shape(size, step, ratio) for ratio in wanted))
    ratios = np.array([math.log(width / height) for height, width in shapes])
    numbers = np.array([np.abs(ratios - math.log(ratio)).argmin() for ratio in _aspect_ratios(images)])
    there = np.unique(numbers)
    return Buckets(images, [shapes[place] for place in there], torch.from_numpy(np.searchsorted(there, numbers)))


def _shape(size: int, step: int, ratio: float) -> tuple[int, int]:
    """(height, width) of about size² pixels and of a width of `ratio` heights."""
    height, width = (max(1, round(size * power / step)) * step for power in (ratio**-0.5, ratio**0.5))
    return height, width


def _aspect_ratios(images: Images) -> list[float]:
    from .image_file import aspect_ratio  # which needs Pillow

    source: Any = images.images if isinstance(images, Part) else images
    places = images.indices.tolist() if isinstance(images, Part) else range(len(images))
    if not hasattr(source, "content"):
        raise UserError("--buckets is for folders of pictures: those of a data set by name are of one shape")
    found = []
    for place in places:
        try:
            ratio = aspect_ratio(source.content(place))
        except Exception:  # Pillow's parsers raise errors of many types; who reads the image will tell.
            ratio = 1.0
        found.append(min(max(ratio, 1 / _WIDEST), _WIDEST))
    return found


def _shaped(images: Images, shape: tuple[int, int]) -> Images:
    """The same images in another shape."""
    if isinstance(images, Part):
        return Part(_shaped(images.images, shape), images.indices)
    made = copy.copy(images)
    made.format = replace(images.format, height=shape[0], width=shape[1])
    return made

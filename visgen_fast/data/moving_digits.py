"""Clips of a handwritten digit that moves at a speed and bounces off the walls; digit and direction are known.

After Srivastava, Mansimov and Salakhutdinov, "Unsupervised learning of video representations using LSTMs", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast import ops

from .images import ImageFormat, Images, digits

# Where a digit is going, as (rows, columns); steps along a diagonal are as long as all others.
DIRECTIONS = {
    f"{'up' if row < 0 else 'down' if row else ''}{' ' if row and column else ''}"
    f"{'left' if column < 0 else 'right' if column else ''}": (row, column)
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if row or column
}


class MovingDigits:
    """Clips uint8 [1, frames, size, size]; the caption says which digit moves where, as "a 3 moving up left".

    images: grey digits with class names, by default scikit-learn's 8×8; a clip takes one of them, whole. speed: pixels
    a frame. seed: of where the digits begin, and which ones are taken. clips: of each caption. A clip is made when it
    is read, always the same. ValueError where digits don't fit into the frame.
    """

    def __init__(
        self,
        images: Images | None = None,
        *,
        frames: int = 8,
        size: int = 20,
        speed: float = 1.5,
        seed: int = 0,
        clips: int = 50,
    ) -> None:
        images = digits() if images is None else images
        self.clips = clips
        self.side, self.frames, self.size, self.speed, self.seed = images.format.size, frames, size, speed, seed
        if size <= self.side:
            raise ValueError(f"size must be above {self.side}, the digits' own, got {size}")
        pixels, labels, _ = images.read(range(len(images)))
        names = images.format.class_names
        self.of_class = [pixels[labels == label] for label in range(len(names))]
        captions = tuple(f"a {name} moving {where}" for name in names for where in DIRECTIONS)
        self.format = ImageFormat(
            height=size, width=size, channels=1, class_names=captions, captions=True, frames=frames
        )

    def __len__(self) -> int:
        return self.clips * len(self.format.class_names)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """Clips uint8 [B, 1, frames, size, size] and labels int64 [B]: index modulo the number of captions."""
        chosen = torch.as_tensor(indices)
        labels = chosen % len(self.format.class_names)
        drawn = ops.uniform(ops.derive_seeds(self.seed, chosen), (3,)).double()
        paths = self._paths(labels, drawn[:, :2])
        digits = []
        for label, share in zip(labels.tolist(), drawn[:, 2].tolist(), strict=True):
            of_class = self.of_class[label // len(DIRECTIONS)]
            digits.append(of_class[math.ceil(share * len(of_class)) - 1])
        return self._drawn(torch.cat(digits), paths)[:, None], labels, ()

    def centres(self, indices: Sequence[int]) -> Tensor:
        """Where the digits' centres are, float64 [B, frames, 2]: rows and columns in pixels from the upper left."""
        chosen = torch.as_tensor(indices)
        drawn = ops.uniform(ops.derive_seeds(self.seed, chosen), (3,)).double()
        return self._paths(chosen % len(self.format.class_names), drawn[:, :2]) + self.side / 2

    def _paths(self, labels: Tensor, begins: Tensor) -> Tensor:
        """Of the digits' upper left corners: straight lines, folded back at the walls."""
        room = self.size - self.side
        ways = torch.tensor(list(DIRECTIONS.values()), dtype=torch.float64)
        steps = F.normalize(ways)[labels % len(DIRECTIONS)] * self.speed
        free = begins[:, None] * room + steps[:, None] * torch.arange(self.frames)[:, None]
        return room - (free.remainder(2 * room) - room).abs()

    def _drawn(self, digits: Tensor, paths: Tensor) -> Tensor:
        """Digits [B, side, side] at each place of paths [B, frames, 2], between pixels too: uint8 [B, frames, …]."""
        places, within = torch.arange(self.size)[:, None], torch.arange(self.side)
        rows, columns = ((1 - (places - within - paths[..., axis, None, None]).abs()).relu() for axis in (0, 1))
        return (rows @ digits[:, None].double() @ columns.mT).round().to(torch.uint8)

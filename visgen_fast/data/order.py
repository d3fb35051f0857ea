"""Which image comes at which position of a run, on which rank, with which seed.

A run sees an endless sequence of positions 0, 1, 2, …. What happens at a position is a pure function of the run's seed
and the position: the image, its augmentation, its noise, its time and whether its label is dropped. Batch size,
number of ranks and interruptions only group the positions differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import ops
from ..errors import UserError
from .buckets import Buckets, OrderOfBuckets
from .images import Images

_TENSORS = ("images", "labels", "seeds", "positions")


@dataclass(frozen=True)
class Batch:
    """Some positions' images, uint8 [B, C, H, W], or clips [B, C, T, H, W], their labels int64 [B], their seeds
    int64 [B], and the positions.

    Where latents come from a cache, `images` are what that keeps of them, float32 [B, P, h, w].

    `module_seed` seeds torch's own generators for this batch, which dropout draws from. `complaints` has a sentence for
    every unreadable file that was met.
    """

    images: Tensor
    labels: Tensor
    seeds: Tensor
    module_seed: int
    complaints: tuple[str, ...]
    positions: Tensor

    def to(self, device: torch.device) -> Batch:
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS})

    def pin_memory(self) -> Batch:
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})


class EndlessPermutation:
    """Position → index of the data: every epoch, `length` positions long, is a permutation drawn from the seed."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            seed = ops.derive_seeds(self.seed, torch.tensor([epoch]), purpose=ops.Purpose.DATA_ORDER)
            # A batch seldom touches more than two epochs, so only two are kept.
            self._epochs = {kept: self._epochs[kept] for kept in sorted(self._epochs)[-1:]}
            self._epochs[epoch] = torch.randperm(self.length, generator=torch.Generator().manual_seed(int(seed)))
        return self._epochs[epoch]

    def __call__(self, positions: Tensor) -> Tensor:
        """Indices int64 [B] in [0, length) of positions int64 [B]."""
        indices = torch.empty_like(positions)
        epochs = positions // self.length
        for epoch in epochs.unique().tolist():
            inside = epochs == epoch
            indices[inside] = self._epoch(epoch)[positions[inside] % self.length]
        return indices


class ImagesByPosition(Dataset):
    """Batches of `images` by position, each image with its seed; half of them mirrored if `horizontal_flip`.

    batch_size: positions of a step, which are of one bucket where the images are in several.
    """

    def __init__(
        self, images: Images, seed: int, *, horizontal_flip: bool = False, batch_size: int | None = None
    ) -> None:
        self.images, self.seed, self.horizontal_flip = images, seed, horizontal_flip
        self._read = images.read
        self.permutation: EndlessPermutation | OrderOfBuckets = EndlessPermutation(len(images), seed)
        if isinstance(images, Buckets):
            assert batch_size is not None
            self._read, self.permutation = images.read_batch, OrderOfBuckets(images.numbers, batch_size, seed)

    def __getitems__(self, positions: list[int]) -> Batch:
        at = torch.tensor(positions)
        indices = self.permutation(at).tolist()
        pixels, labels, complaints = self._read(indices)
        seeds = ops.derive_seeds(self.seed, at)
        if self.horizontal_flip:
            chance = ops.uniform(seeds, (1,) * (pixels.dim() - 1), stream=ops.Purpose.AUGMENTATION.stream())
            kept = getattr(self.images, "mirrored", None)  # of latents, whose mirror image is not that of the picture
            turned = pixels.flip(-1) if kept is None else kept(indices)
            pixels = torch.where(chance <= 0.5, turned, pixels)
        module_seed = int(ops.derive_seeds(self.seed, at[:1], purpose=ops.Purpose.DROPOUT))
        return Batch(pixels, labels, seeds, module_seed, complaints, at)


class MicroBatches(Sampler[list[int]]):
    """The positions of rank `rank`'s micro-batches from position `start` on, without end.

    Of each `batch_size` positions, which make one optimizer step, rank r of `world` has those where position % world
    is r, in `accumulation` micro-batches. ValueError unless that divides evenly.
    """

    def __init__(self, start: int, batch_size: int, *, rank: int = 0, world: int = 1, accumulation: int = 1) -> None:
        if batch_size % (world * accumulation):
            raise ValueError(
                f"batch_size must be divisible by ranks × accumulation = {world} × {accumulation}, got {batch_size}"
            )
        self.start, self.size, self.rank, self.world = start, batch_size // accumulation, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start
        while True:
            yield list(range(first + self.rank, first + self.size, self.world))
            first += self.size


def load(data: Dataset, positions: Iterable[list[int]], *, workers: int, pin_memory: bool) -> Iterator[Any]:
    """The batches that `data` has at `positions`, read ahead by `workers` processes (0: by this one).

    Raises the `UserError` of an image source as it was, whichever process it arose in.
    """
    for batch in DataLoader(
        _MistakesAsValues(data),
        batch_sampler=positions,  # it needs no length
        collate_fn=_as_is,
        num_workers=workers,
        pin_memory=pin_memory,
    ):
        if isinstance(batch, UserError):
            raise batch
        yield batch


class _MistakesAsValues(Dataset):
    """Delivers a `UserError`: one that is raised in a loading process gets a traceback for its sentence."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitems__(self, positions: list[int]) -> Any:
        try:
            return self.data.__getitems__(positions)
        except UserError as error:
            return error


def _as_is(batch: Any) -> Any:
    return batch

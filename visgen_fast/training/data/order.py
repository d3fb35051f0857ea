"""Which picture comes at which position of a run, on which rank, with which seed.

A run sees an endless sequence of positions 0, 1, 2, …. What happens at a position is a pure function of the run's seed
and the position: the picture, its augmentation, its noise, its time and whether its label is dropped. Batch size,
number of ranks and interruptions only group the positions differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ... import ops
from .pictures import Pictures


@dataclass(frozen=True)
class Batch:
    """Some positions' pictures, uint8 [B, C, H, W], their labels int64 [B] and their seeds int64 [B].

    `module_seed` seeds torch's own generators for this batch, which dropout draws from. `complaints` has a sentence for
    every unreadable file that was met.
    """

    pixels: Tensor
    labels: Tensor
    seeds: Tensor
    module_seed: int
    complaints: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        move = {name: getattr(self, name).to(device, non_blocking=True) for name in ("pixels", "labels", "seeds")}
        return replace(self, **move)

    def pin_memory(self) -> Batch:
        return replace(self, **{name: getattr(self, name).pin_memory() for name in ("pixels", "labels", "seeds")})


class EndlessPermutation:
    """Position → index of the data: each epoch, a stretch of `length` positions, is a permutation drawn from the seed."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        # A batch seldom touches more than two epochs.
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> Tensor:
        seed = ops.derive_seeds(self.seed, torch.tensor([epoch]), purpose=ops.Purpose.DATA_ORDER)
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(int(seed)))

    def __call__(self, positions: Tensor) -> Tensor:
        """Indices int64 [B] in [0, length) of positions int64 [B]."""
        indices = torch.empty_like(positions)
        epochs = positions // self.length
        for epoch in epochs.unique().tolist():
            inside = epochs == epoch
            indices[inside] = self._epoch(epoch)[positions[inside] % self.length]
        return indices


class PicturesByPosition(Dataset):
    """Batches of `pictures` by position, each picture with its seed; half of them mirrored if `mirror`."""

    def __init__(self, pictures: Pictures, seed: int, *, mirror: bool = False) -> None:
        self.pictures, self.seed, self.mirror = pictures, seed, mirror
        self.permutation = EndlessPermutation(len(pictures), seed)

    def __getstate__(self) -> dict:
        # The cache of permutations cannot travel to a loading process; the process builds its own.
        return {"pictures": self.pictures, "seed": self.seed, "mirror": self.mirror}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["pictures"], state["seed"], mirror=state["mirror"])

    def __getitems__(self, positions: range) -> Batch:
        at = torch.arange(positions.start, positions.stop, positions.step)
        pixels, labels, complaints = self.pictures.read(self.permutation(at).tolist())
        seeds = ops.derive_seeds(self.seed, at)
        if self.mirror:
            chance = ops.uniform(seeds, (1, 1, 1), stream=ops.Purpose.AUGMENTATION.stream())
            pixels = torch.where(chance <= 0.5, pixels.flip(-1), pixels)
        module_seed = int(ops.derive_seeds(self.seed, at[:1], purpose=ops.Purpose.DROPOUT))
        return Batch(pixels, labels, seeds, module_seed, complaints)


class MicroBatches(Sampler[range]):
    """The positions of rank `rank`'s micro-batches from position `start` on, without end.

    Of each `batch_size` positions, which make one optimizer step, rank r of `world` has those with position % world = r,
    in `accumulation` micro-batches.
    """

    def __init__(self, start: int, batch_size: int, *, rank: int = 0, world: int = 1, accumulation: int = 1) -> None:
        if batch_size % (world * accumulation):
            raise ValueError(
                f"batch_size must be divisible by ranks × accumulation = {world} × {accumulation}, got {batch_size}"
            )
        self.start, self.size, self.rank, self.world = start, batch_size // accumulation, rank, world

    def __iter__(self) -> Iterator[range]:
        first = self.start
        while True:
            yield range(first + self.rank, first + self.size, self.world)
            first += self.size


def load(data: PicturesByPosition, positions: MicroBatches, *, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches at `positions`, read ahead by `workers` processes (0: by this one)."""
    return iter(
        DataLoader(data, batch_sampler=positions, collate_fn=_as_is, num_workers=workers, pin_memory=pin_memory)
    )


def _as_is(batch: Batch) -> Batch:
    return batch

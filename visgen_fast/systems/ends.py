"""What lies at the end of a path: noise, or images, as functions of seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .. import ops
from ..data.images import Images, labels_of, to_range

_STREAM = ops.Purpose.INITIAL_STATE.stream()


class End(Protocol):
    """Draws what lies at one end of a path."""

    def draw(self, seeds: Tensor, labels: Tensor | None = None) -> Tensor:
        """A sample for each seed, int64 [B], on their device: [B, C, H, W]. labels: classes to draw from, or all."""
        ...


class NoiseEnd:
    """Standard normal noise of the shape of an image."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def draw(self, seeds: Tensor, labels: Tensor | None = None) -> Tensor:
        return ops.gaussian(seeds, self.shape, stream=_STREAM)


class ImageEnd:
    """Images of a source, which is opened when the first is drawn."""

    def __init__(self, source: Callable[[], Images]) -> None:
        self._source = source

    @cached_property
    def images(self) -> Images:
        return self._source()

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The indices of all images, sorted by label, and these labels."""
        labels, order = labels_of(self.images).sort(stable=True)
        return order, labels

    def draw(self, seeds: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            return self.pick(seeds)[0]
        order, there = self._places
        wanted = labels.cpu()
        first, last = (torch.searchsorted(there, wanted, right=right) for right in (False, True))
        if bool((first == last).any()):
            missing = int(wanted[first == last][0])
            raise ValueError(f"there is no image of class {self.images.format.class_names[missing]} to begin with")
        return self._read(order[_at(_shares(seeds), first, last)], seeds.device)[0]

    def pick(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """An image for each seed and its label, int64 [B]."""
        return self._read(_at(_shares(seeds), torch.zeros(1), torch.tensor([len(self.images)])), seeds.device)

    def _read(self, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        pixels, labels, _ = self.images.read(chosen.tolist())
        return to_range(pixels).to(device), labels.long().to(device)


def _shares(seeds: Tensor) -> Tensor:
    return ops.uniform(seeds.cpu(), (1,), stream=_STREAM, dtype=torch.float64).squeeze(1)


def _at(share: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The index in [first, last) at a share in (0, 1]."""
    return (first + (share * (last - first)).ceil() - 1).long()

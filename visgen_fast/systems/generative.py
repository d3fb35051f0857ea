"""What every system is that draws images, and how many of them are drawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..data.images import AT_A_TIME, Images
from ..diffusion.sampling import Callback
from ..training.system import System

# The sample grids of a run show some classes, so many images of each; a single class, or captions, fill a grid.
_GRID_CLASSES, _GRID_COLUMNS, _GRID_IMAGES = 10, 10, 40


class GenerativeSystem(System):
    """A system that draws images, of classes unless it is not `conditional`: then labels tell it nothing.

    gives_likelihood: whether `bits` says how likely an image is.
    """

    gives_likelihood = False

    @property
    def conditional(self) -> bool:
        return True

    @abstractmethod
    def sample(self, labels: Tensor, seeds: Tensor, *, callback: Callback | None = None, **options: Any) -> Tensor:
        """Images of classes `labels` int64[B], drawn from `seeds` int64[B]: float [B, C, H, W] in [−1, 1].

        callback: as of `visgen_fast.diffusion.sample`. options: of the system's sampler, each by default the system's
        own. ValueError for labels that are no classes, and for options that are none or don't fit together.
        """

    @abstractmethod
    def options(self, **asked: Any) -> dict[str, Any]:
        """Every option that `sample` would draw with, if it were asked for these; `steps` is one. What it raises."""

    def bits(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """−log₂ p of each of the images uint8 [B, C, H, W], of whatever class, or its upper bound: float [B].

        seeds: int64 [B], of what is random in it. ValueError for a system that gives none.
        """
        raise ValueError(f"{type(self).__name__} gives no likelihood of images")

    def energies(self, pixels: Tensor, seeds: Tensor) -> Tensor | None:
        """−ln p of each of the images uint8 [B, C, H, W], of whatever class, up to one constant of all: float [B].

        seeds: int64 [B], of what is random in it. None for a system that has no energy.
        """
        return None

    def rebuild(self, pixels: Tensor, seeds: Tensor) -> Tensor | None:
        """Images [B, C, H, W] in [−1, 1] that the system makes of images uint8 after losing a part of each.

        None for a system that makes an image of nothing else than noise.
        """
        return None

    def reconstruct(self, images: Tensor, seeds: Tensor) -> Tensor | None:
        """What a first stage makes of images [B, C, H, W] in [−1, 1], as near as any prior can come; None without one.

        seeds: int64 [B], of what is random in it.
        """
        return None

    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """Samples of some classes, or one of each of some captions; without classes just samples."""
        format = images.format
        if not self.conditional:
            return draw_samples(self, [0], _GRID_IMAGES, seed=seed, device=device), ()
        if format.captions:
            drawn = draw_samples(self, format.some_labels(_GRID_IMAGES), 1, seed=seed, device=device)
            return drawn.transpose(0, 1), ()
        labels = format.some_labels(_GRID_CLASSES)
        count = _GRID_COLUMNS if len(labels) > 1 else _GRID_IMAGES
        drawn = draw_samples(self, labels, count, seed=seed, device=device)
        return drawn, [format.class_names[label] for label in labels]


def draw_samples(
    system: GenerativeSystem,
    labels: Sequence[int],
    count: int,
    *,
    seed: int | Sequence[int],
    device: torch.device | str,
    callback: Callback | None = None,
    known: Tensor | None = None,
    same_noise: bool = False,
    **options: Any,
) -> Tensor:
    """`count` images of each class in `labels` by each seed: [len(labels), seeds × count, C, H, W] in [−1, 1].

    An image depends on its seed, its class and its place among the images of these two, and on nothing else. They are
    drawn `AT_A_TIME`; callback and options are as of `GenerativeSystem.sample`. known: for a system of codes, those of
    each image that are given, [images, *grid, Q] in the order of the result. same_noise: whether all classes have the
    noise of the first one.
    """
    run_seeds = [seed] if isinstance(seed, int) else seed
    numbers = [0] * len(labels) if same_noise else labels
    seeds = torch.cat([seeds_of(one, number, count) for number in numbers for one in run_seeds])
    classes = torch.tensor(labels).repeat_interleave(count * len(run_seeds))
    some_classes, some_seeds = classes.split(AT_A_TIME), seeds.split(AT_A_TIME)
    given: list[dict[str, Tensor]] = [{} for _ in some_seeds]
    if known is not None:
        given = [{"known": part.to(device)} for part in known.split(AT_A_TIME)]
    chunks = [
        system.sample(labels.to(device), own.to(device), callback=callback, **codes, **options)
        for labels, own, codes in zip(some_classes, some_seeds, given, strict=True)
    ]
    return torch.cat(chunks).unflatten(0, (len(labels), -1))


def seeds_of(seed: int, label: int, count: int) -> Tensor:
    """The seeds int64 [count] of the images of class `label` that are drawn by `seed`."""
    return ops.derive_seeds(seed, torch.arange(count), step=label, purpose=ops.Purpose.INITIAL_STATE)

"""The recipe classifier on single frames of moving digits, whose classes are the digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from visgen_fast.data.datasets import DATASETS
from visgen_fast.data.images import Images
from visgen_fast.data.moving_digits import DIRECTIONS
from visgen_fast.recipes.classifier import Settings, system
from visgen_fast.recipes.recipe import Recipe

SIZE = 20


class FirstFrames:
    """The first frame of each clip; the label is its digit."""

    def __init__(self, clips: Images) -> None:
        digits = tuple(name.split()[1] for name in clips.format.class_names[:: len(DIRECTIONS)])
        self.clips, self.format = clips, replace(clips.format, class_names=digits, captions=False, frames=None)

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        clips, labels, _ = self.clips.read(indices)
        return clips[:, :, 0], labels // len(DIRECTIONS), ()


def _frames(part: str) -> Images:
    return FirstFrames(getattr(DATASETS["moving-digits"], part)(None, SIZE, 1))


RECIPE = Recipe(Settings, lambda settings: _frames("train"), system, lambda settings: _frames("held_out"))

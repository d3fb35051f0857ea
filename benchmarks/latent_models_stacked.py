"""The recipe dcgan on stacked digits: three of scikit-learn's at random as red, green and blue, 1,000 classes."""

from __future__ import annotations

import torch

from visgen_fast.data.images import Images, ImagesInMemory, digits
from visgen_fast.recipes.dcgan import Settings, system
from visgen_fast.recipes.recipe import Recipe

COUNT = 50_000


def stacked(settings: Settings) -> Images:
    """The same ones always; the run is told nothing of their classes (`--no-conditional`)."""
    whole = digits()
    chosen = torch.randint(len(whole), (COUNT, 3), generator=torch.Generator().manual_seed(0))
    labels = (whole.labels[chosen] * torch.tensor([100, 10, 1])).sum(1)
    return ImagesInMemory(whole.pixels[chosen, 0], labels, [f"{number:03d}" for number in range(1000)])


RECIPE = Recipe(Settings, stacked, system)

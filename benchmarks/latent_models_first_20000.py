"""The recipe vae on the first 20,000 images of Fashion-MNIST, whose likelihood by probabilistic PCA is known."""

from __future__ import annotations

from visgen_fast.data.images import Images, Part
from visgen_fast.recipes._images import held_out_images, training_images
from visgen_fast.recipes.recipe import Recipe
from visgen_fast.recipes.vae import Settings, system

COUNT = 20_000


def first(settings: Settings) -> Images:
    return Part(training_images(settings), range(COUNT))


RECIPE = Recipe(Settings, first, system, held_out_images)

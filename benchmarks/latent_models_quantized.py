"""The recipe latent-diffusion on a tokenizer's vectors after they are quantized, instead of before."""

from __future__ import annotations

from torch import Tensor

from visgen_fast.data.images import ImageFormat
from visgen_fast.recipes import latent_diffusion
from visgen_fast.recipes._images import held_out_images, training_images
from visgen_fast.recipes.latent_diffusion import Settings
from visgen_fast.recipes.recipe import Recipe
from visgen_fast.systems.prior import PriorSystem
from visgen_fast.tokenizers import GridTokenizer


def system(settings: Settings, images: ImageFormat) -> PriorSystem:
    made = latent_diffusion.system(settings, images)
    tokenizer = made.first_stage.reconstructor
    assert isinstance(tokenizer, GridTokenizer)

    def quantized(shown: Tensor) -> Tensor:
        return tokenizer.quantizer(tokenizer.latents(shown)).quantized.permute(0, 3, 1, 2)

    tokenizer.encode_posterior = quantized  # type: ignore[method-assign]
    return made


RECIPE = Recipe(Settings, training_images, system, held_out_images)

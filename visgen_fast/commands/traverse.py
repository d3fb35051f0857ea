"""What `visgen-fast sample --traverse` draws: the latents of a VAE, each moved by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ..recipes.recipe import Recipe
    from ..systems.generative import GenerativeSystem
    from ..training.settings import TrainingSettings


def check_traversal(seeds: Sequence[int], interpolate: object, gif: object, strip: object) -> None:
    """`UserError` for options that do not go with --traverse."""
    if len(seeds) > 1:
        raise UserError(f"--traverse takes one --seed, that of the image that it goes from, got {len(seeds)}")
    for name, value in (("interpolate", interpolate), ("preview-gif", gif), ("preview-strip", strip)):
        if value is not None:
            raise UserError(f"--traverse and --{name} must not be given together")


def traversals(
    system: GenerativeSystem, recipe: Recipe[Any], settings: TrainingSettings, seed: int, count: int
) -> tuple[Tensor, list[str]]:
    """Rows [latents, count, C, H, W] of the image of `seed` with one latent moved, and the rows' names.

    They are sorted by what the latents tell of held-out images. `UserError` for a system of another kind.
    """
    import torch

    from ..recipes.runs import images_to_measure
    from ..systems.generative import seeds_of
    from ..systems.vae import VAESystem

    if not isinstance(system, VAESystem):
        raise UserError(f"--traverse is for a VAE, and the recipe {recipe.name} trains none")
    device = next(system.parameters()).device
    kl = system.divergences(images_to_measure(recipe, settings)[0], device=device)
    point = system.points(None, seeds_of(seed, 0, 1).to(device), 1.0)[0]
    rows = system.traverse(point, kl, count)
    return torch.stack(list(rows.values())), list(rows)

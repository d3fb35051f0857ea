"""What `visgen-fast sample --complete` gives a model of codes: the upper parts of pictures that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.images import ImageFormat
    from ..recipes.recipe import Recipe
    from ..systems.generative import GenerativeSystem
    from ..training.settings import TrainingSettings

_READ_AT_A_TIME = 500


def known_codes(
    system: GenerativeSystem,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    format: ImageFormat,
    labels: Sequence[int],
    count: int,
    seeds: int,
    share: float,
) -> Tensor:
    """The codes [labels × seeds × count, *grid, Q] of the upper `share` of held-out pictures, −1 where one is drawn.

    Every seed completes the same `count` pictures of a class, which come again where there are fewer. `UserError` for a
    system of another kind, for pictures of another `format` than the run's, and for a class without any; ValueError
    where `CodeSystem.given` raises it.
    """
    import torch

    from ..data.images import to_range
    from ..recipes.runs import images_to_measure
    from ..systems.codes import CodeSystem

    if not isinstance(system, CodeSystem):
        raise UserError(f"--complete is for a model of codes, and the recipe {recipe.name} trains none")
    images, _ = images_to_measure(recipe, settings)
    if images.format != format:
        raise UserError("--complete needs held-out pictures like those of the run, of the same shape and classes")
    found: dict[int, list[Tensor]] = {label: [] for label in labels}
    for indices in torch.arange(len(images)).split(_READ_AT_A_TIME):
        if all(len(pictures) >= count for pictures in found.values()):
            break
        pixels, classes, _ = images.read(indices.tolist())
        for label, pictures in found.items():
            pictures += pixels[classes == label][: count - len(pictures)]
    for label in labels:
        if not found[label]:
            raise UserError(f"there is no held-out picture of the class {format.class_names[label]} to complete")
    device, given = next(system.parameters()).device, []
    for label in labels:
        codes = system.given(to_range(torch.stack(found[label]).to(device)), share)
        given.append(codes[torch.arange(count, device=device) % len(codes)].repeat(seeds, *[1] * (codes.dim() - 1)))
    return torch.cat(given)

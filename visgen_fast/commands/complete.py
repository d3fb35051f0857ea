"""What `visgen-fast sample --complete` gives a model of codes: parts of pictures that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.images import ImageFormat
    from ..recipes.recipe import Recipe
    from ..systems.generative import GenerativeSystem
    from ..training.settings import TrainingSettings

_READ_AT_A_TIME = 500


def part_given(asked: str, format: ImageFormat) -> float | Tensor:
    """What --complete asks for: the upper share that is given; or of a mask picture, bool [H, W], what is drawn.

    `UserError` unless it is a number, or a picture of the size of those of the `format`.
    """
    import numpy as np
    import torch
    from PIL import Image

    from ..data.image_file import as_png

    try:
        return float(asked)
    except ValueError:
        pass
    if not Path(asked).is_file():
        raise UserError(f"--complete must be a number or the file of a mask, got {asked}")
    try:
        with Image.open(BytesIO(as_png(asked))) as image:
            mask = torch.from_numpy(np.array(image.convert("L"))) >= 128
    except UserError:
        raise
    except Exception as error:  # of any type: the file may hold anything
        raise UserError(f"--complete: {asked} is no picture that can be read ({type(error).__name__})") from error
    if mask.shape != (format.height, format.width):
        raise UserError(
            f"--complete must be a mask of {format.width}×{format.height} pixels, as the images are, but {asked} has "
            f"{mask.shape[1]}×{mask.shape[0]}"
        )
    return mask


def known_codes(
    system: GenerativeSystem,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    format: ImageFormat,
    labels: Sequence[int],
    count: int,
    seeds: int,
    asked: str,
) -> Tensor:
    """The codes [labels × seeds × count, *grid, Q] of the parts of held-out pictures that --complete asks for, else −1.

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
    part = part_given(asked, format)
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
        codes = system.given(to_range(torch.stack(found[label]).to(device)), part)
        given.append(codes[torch.arange(count, device=device) % len(codes)].repeat(seeds, *[1] * (codes.dim() - 1)))
    return torch.cat(given)

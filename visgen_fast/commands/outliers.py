"""`visgen-fast evaluate --outliers`: which images don't belong to what a model has learned, and what tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, writing

if TYPE_CHECKING:
    import torch

    from ..data.images import Images
    from ..recipes.recipe import Recipe
    from ..training.settings import TrainingSettings
    from ..training.system import System

_MEASURED = 1000  # images of each set


def outliers(
    name: str,
    system: System,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    out: Path,
    head: dict[str, Any],
    device: torch.device,
    *,
    pictures: int | None,
    classifier: str | None,
) -> str:
    """Scores held-out images and those of the set `name`, writes outliers.json and outliers.png, and says what tells.

    classifier: a run of that recipe, for the measure "confidence". `UserError` for a system that draws no images, and
    for sets that cannot be compared.
    """
    from ..data.images import Part, evenly
    from ..recipes.runs import images_to_measure, trained_classifier
    from ..systems.generative import GenerativeSystem
    from ..systems.outlying import find_outliers

    if not isinstance(system, GenerativeSystem):
        raise UserError(f"--outliers is for a model that draws images, and the recipe {recipe.name} trains none")
    images, held_out = images_to_measure(recipe, settings)
    if not held_out:
        raise UserError("--outliers are compared with held-out images, and the run has none")
    inside = Part(images, evenly(len(images), pictures or _MEASURED))
    others = _set(name, inside)
    outside = Part(others, evenly(len(others), pictures or _MEASURED))
    judge = None if classifier is None else trained_classifier(Path(classifier), images.format.channels).to(device)
    try:
        found = find_outliers(
            system.to(device), recipe.pictures(settings), inside, outside, device=device, classifier=judge
        )
    except ValueError as error:
        raise UserError(f"--outliers: {error}") from error
    told = found.auroc()
    counts = {"inside": len(inside), "outside": len(outside)}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "outliers.json").write_text(json.dumps({**head, "set": name, **counts, "auroc": told}, indent=1) + "\n")
        found.plot(out / "outliers.png", name)
    rows = [f"{measure:<16}{value:.3f}" for measure, value in told.items()]
    return "\n".join(["AUROC of", *rows, f"images: {len(inside)} held out, {len(outside)} of {name}"])


def _set(name: str, inside: Images) -> Images:
    """The images of a data set, a folder, noise, or the held-out ones mirrored, of the size of the others."""
    import torch

    from ..data.datasets import DATASETS, FOLDER
    from ..data.images import ImagesInMemory

    names = [known for known, data in DATASETS.items() if known != FOLDER and data.frames is None]
    if name in names:
        chosen = DATASETS[name]
        return (chosen.held_out or chosen.train)(None, inside.format.size)
    if name not in ("noise", "mirrored"):
        if not Path(name).is_dir():
            raise UserError(f"--outliers must be one of {', '.join(names)}, noise, mirrored or a folder, got {name}")
        return DATASETS[FOLDER].train(Path(name), inside.format.size)
    pixels, labels, _ = inside.read(range(len(inside)))
    if name == "mirrored":
        return ImagesInMemory(pixels.flip(-1), labels, inside.format.class_names)
    noise = torch.randint(0, 256, pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImagesInMemory(noise, labels, inside.format.class_names)

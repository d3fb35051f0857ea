"""`visgen-fast evaluate --probe`: a linear classifier on the frozen latents of a first stage."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, writing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..data.images import Images
    from ..recipes.recipe import Recipe
    from ..training.settings import TrainingSettings
    from ..training.system import System

# Training images that the classifier is fitted to, and held-out ones that it is measured on.
_FITTED, _MEASURED = 10_000, 2000


def probe(
    system: System,
    recipe: Recipe[Any],
    settings: TrainingSettings,
    out: Path,
    head: dict[str, Any],
    device: torch.device,
    pictures: int | None,
) -> str:
    """Fits and measures the classifier, writes probe.json, and says what was found; `UserError` for other systems."""
    from ..evaluation.probe import linear_probe
    from ..recipes.runs import images_to_measure

    images, held_out = images_to_measure(recipe, settings)
    if not held_out:
        raise UserError("--probe is measured on held-out images, and the run has none")
    if images.format.captions:
        raise UserError("--probe classifies images, and those of this run have captions, not classes")
    told = [
        _latents(system, some, most, device, recipe.name)
        for some, most in ((recipe.pictures(settings), _FITTED), (images, pictures or _MEASURED))
    ]
    try:
        found = linear_probe(*told[0], *told[1])
    except ValueError as error:
        raise UserError(f"--probe: {error}") from error
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "probe.json").write_text(json.dumps({**head, **asdict(found)}, indent=1) + "\n")
    interval = f"{100 * found.low:.1f}% to {100 * found.high:.1f}%"
    return (
        f"linear classifier of {found.features} features: {100 * found.accuracy:.1f}% right ({interval}), the most "
        f"frequent class is {100 * found.chance:.1f}%\nimages: {found.fitted} to fit, {found.measured} held out"
    )


def _latents(system: System, images: Images, most: int, device: torch.device, name: str) -> tuple[Tensor, Tensor]:
    """The features [N, F] of at most so many of the images, evenly, and their labels int64 [N]."""
    import torch

    from .. import ops
    from ..data.images import AT_A_TIME, Part, evenly, to_range
    from ..evaluation.probe import features_of
    from ..nn.likelihoods import observe
    from ..systems.tokenizer import TokenizerSystem
    from ..systems.vae import VAESystem

    if not isinstance(system, TokenizerSystem | VAESystem):
        raise UserError(f"--probe is for a tokenizer or an autoencoder, and the recipe {name} trains none")
    system, some, found = system.to(device), Part(images, evenly(len(images), most)), []
    for places in torch.arange(len(some)).split(AT_A_TIME):
        pixels, labels, _ = some.read(places.tolist())
        pixels = pixels.to(device)
        with torch.no_grad():
            if isinstance(system, VAESystem):
                seeds = ops.derive_seeds(0, places.to(device), purpose=ops.Purpose.LIKELIHOOD)
                latents = system.vae.encode(observe(pixels, seeds, system.likelihood)).mean
            else:
                try:
                    latents = system.tokenizer.encode_latents(to_range(pixels), None)
                except ValueError as error:
                    raise UserError(f"--probe: {error}") from error
        found.append((features_of(latents), labels.long()))
    return torch.cat([features for features, _ in found]), torch.cat([labels for _, labels in found])

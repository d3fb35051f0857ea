"""Whether images belong to what a trained system has learned, by all measures that it gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops
from ..data.images import AT_A_TIME, Images, evenly, to_range
from ..errors import UserError
from ..evaluation.outliers import Outliers, doubt, of_likelihood, png_bits, reconstruction_error
from .generative import GenerativeSystem

_USUAL = 512  # training images, of which the usual likelihood is the mean


def find_outliers(
    system: GenerativeSystem,
    train: Images,
    inside: Images,
    outside: Images,
    *,
    device: torch.device,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> Outliers:
    """The scores of held-out images `inside` and of the images `outside`, by every measure that the system gives.

    train: images that it was trained on. classifier: of images in [−1, 1] to logits, for the measure "confidence".
    `UserError` for images of another format, and where there is no measure at all.
    """
    if outside.format.shape != inside.format.shape:
        raise UserError(f"the outliers must be images {inside.format.shape}, got {outside.format.shape}")
    usual = None
    if system.gives_likelihood:
        places = evenly(len(train), _USUAL)
        usual = float(torch.cat([system.bits(*part) for part in _parts(train, device, places)]).double().mean())
    scores = [_scores(system, images, usual, classifier, device) for images in (inside, outside)]
    if not scores[0]:
        raise UserError("the model gives no likelihood, energies or reconstructions, and there is no classifier")
    return Outliers(*scores)


def _parts(images: Images, device: torch.device, places: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Pixels uint8 with their seeds, some images at a time."""
    found = []
    for part in torch.tensor(places).split(AT_A_TIME):
        seeds = ops.derive_seeds(0, part.to(device), purpose=ops.Purpose.LIKELIHOOD)
        found.append((images.read(part.tolist())[0].to(device), seeds))
    return found


@torch.no_grad()
def _scores(
    system: GenerativeSystem,
    images: Images,
    usual: float | None,
    classifier: Callable[[Tensor], Tensor] | None,
    device: torch.device,
) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for pixels, seeds in _parts(images, device, list(range(len(images)))):
        own: dict[str, Tensor] = {}
        if usual is not None:
            own |= of_likelihood(system.bits(pixels, seeds), png_bits(pixels), usual)
        energies = system.energies(pixels, seeds)
        if energies is not None:
            own["energy"] = energies.double().cpu()
        rebuilt = system.rebuild(pixels, seeds)
        if rebuilt is not None:
            own["reconstruction"] = reconstruction_error(to_range(pixels), rebuilt.clamp(-1, 1))
        if classifier is not None:
            own["confidence"] = doubt(classifier(to_range(pixels)))
        for name, scores in own.items():
            found.setdefault(name, []).append(scores)
    return {name: torch.cat(scores) for name, scores in found.items()}

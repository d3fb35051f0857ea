"""What a system draws, compared with a set of pictures by the features of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..data.images import AT_A_TIME, Images, in_chunks, to_range
from ..evaluation.features import Estimate, FeatureSet, SetDistances, compare_sets
from ..evaluation.neighbours import copies
from .generative import GenerativeSystem

_LEAST = 12  # pictures of a class, as of `compare_sets`
_SHOWN = 20  # pairs of copies


@torch.no_grad()
def drawn(system: GenerativeSystem, labels: Tensor, *, device: torch.device, **options: Any) -> list[Tensor]:
    """Pictures of classes `labels` int64 [N], in batches [B, C, H, W] in [−1, 1] on the device of the system.

    Each has a seed that is its place's and always the same, so that two systems draw from the same noise. options: as
    of `system.sample`, and so is what is raised.
    """
    parts = _places(labels, device)
    return [system.sample(told, seeds, **options).clamp(-1, 1) for told, seeds in parts]


def _places(labels: Tensor, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    for places in torch.arange(len(labels)).split(AT_A_TIME):
        seeds = ops.derive_seeds(0, places, purpose=ops.Purpose.INITIAL_STATE)
        yield labels[places].to(device), seeds.to(device)


@torch.no_grad()
def reconstructed(system: GenerativeSystem, images: Images, *, device: torch.device) -> list[Tensor] | None:
    """What the system's first stage makes of images, in batches as of `drawn`; None for a system without one."""
    found = []
    for number, (shown, _) in enumerate(in_chunks(images, device)):
        places = AT_A_TIME * number + torch.arange(len(shown), device=device)
        rebuilt = system.reconstruct(shown, ops.derive_seeds(0, places, purpose=ops.Purpose.CODE))
        if rebuilt is None:
            return None
        found.append(rebuilt.clamp(-1, 1))
    return found


def by_class(reference: FeatureSet, made: FeatureSet, labels: tuple[Tensor, Tensor]) -> dict[int, SetDistances]:
    """`compare_sets` for each class that has at least twelve pictures in both sets, whose `labels` are int64 [N]."""
    found = {}
    for label in labels[0].unique().tolist():
        parts = [
            FeatureSet(some.values[own == label], some.features)
            for some, own in zip((reference, made), labels, strict=True)
        ]
        if min(len(part.values) for part in parts) >= _LEAST:
            found[label] = compare_sets(*parts)
    return found


@dataclass(frozen=True)
class CopiedPictures:
    """Drawn pictures that were learned by heart.

    share: of all that were drawn; expected: the share of held-out pictures that are as near. pairs: the first twenty,
    drawn above and the training pictures next to them below, [2, n, C, H, W] in [−1, 1].
    """

    share: float
    expected: float
    pairs: Tensor


def copied(
    train: Images, pictures: Sequence[Tensor], made: FeatureSet, held_out: FeatureSet, *, device: torch.device
) -> CopiedPictures:
    """Which pictures, in batches, whose features are `made`, are copies of some in `train`, by `copies`.

    Raises what that does.
    """
    of_train = made.features.of(shown for shown, _ in in_chunks(train, device))
    found = copies(of_train.values, made.values, held_out.values)
    which, nearest = found.which[:_SHOWN], found.nearest[:_SHOWN]
    shown = torch.cat(list(pictures))[which.to(device)].cpu()
    there = [train.read([place])[0][0] for place in nearest.tolist()]
    originals = to_range(torch.stack(there)) if there else shown
    return CopiedPictures(found.share, found.expected, torch.stack((shown, originals)))


@dataclass(frozen=True)
class Comparison:
    """What was drawn against a reference set.

    against: what that is; sampling: the options that it was drawn with; rebuilt: what a first stage makes of the
    images, against the same; classes: by their names, where that was asked for; copies: where they were looked for.
    """

    against: str
    sampling: Mapping[str, Any]
    drawn: SetDistances
    rebuilt: SetDistances | None = None
    classes: Mapping[str, SetDistances] | None = None
    copies: CopiedPictures | None = None

    def head(self) -> dict[str, Any]:
        """For evaluation.json: the distances as plain numbers, and everything with its intervals as `sets`."""
        sets = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.copies is not None:
            sets["copies"] = {"share": self.copies.share, "expected": self.copies.expected}
        return {
            "fid": self.drawn.frechet_distance.value,
            "rfid": None if self.rebuilt is None else self.rebuilt.frechet_distance.value,
            "kernel_distance": self.drawn.kernel_distance.value,
            "sets": sets,
        }

    def lines(self) -> list[str]:
        """For a terminal: every measure with its 95% interval."""
        of = self.drawn
        found = [f"{of.pictures} drawn against {of.reference} of {self.against}, by {of.name} ({of.digest[:12]})"]
        names = {"frechet_distance": "fid", "at_infinity": "fid at infinity"}
        for field in fields(of):
            estimate = getattr(of, field.name)
            if isinstance(estimate, Estimate):
                found.append(f"{names.get(field.name, field.name.replace('_', ' '))}: {_told(estimate)}")
        if self.rebuilt is not None:
            found.append(f"rfid: {_told(self.rebuilt.frechet_distance)}")
        for name, one in (self.classes or {}).items():
            found.append(f"class {name}: fid {_told(one.frechet_distance)}, recall {_told(one.recall)}")
        if self.copies is not None:
            found.append(f"copies: {self.copies.share:.1%}; {self.copies.expected:.1%} of held-out images are as near")
        return found

    def write(self, out: Path) -> None:
        """Writes copies.png where there are any."""
        from ..training.figures import image_grid

        if self.copies is not None and self.copies.pairs.shape[1]:
            image_grid(self.copies.pairs, ("drawn", "training")).save(out / "copies.png")


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"

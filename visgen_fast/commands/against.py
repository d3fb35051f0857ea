"""What `visgen-fast evaluate` compares drawn images with: held-out ones, training's, another run's, or a folder's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..data.images import ImageFormat, Images
    from ..evaluation.features import Features
    from ..systems.compared import Comparison
    from ..systems.generative import GenerativeSystem


@dataclass(frozen=True)
class Measured:
    """A run's system, of images of the format given, and its images.

    some: those that are measured; held_out: whether training never saw them; train: opens those that it saw.
    """

    system: GenerativeSystem
    format: ImageFormat
    some: Images
    held_out: bool
    train: Callable[[], Images]


def compare(
    run: Measured,
    against: str | None,
    features: Features,
    *,
    device: torch.device,
    by_class: bool = False,
    **asked: Any,
) -> Comparison:
    """Draws with the run's system, with the sampler's options `asked` for, and compares by `features`.

    against: "held-out", "train", or a run's or a folder's path; by default held-out images where there are some.
    "train" looks for copies, too. ValueError where something cannot be compared.
    """
    from ..evaluation.features import compare_sets
    from ..systems.compared import Comparison, copied, drawn, reconstructed
    from ..systems.compared import by_class as compare_classes

    if by_class and not run.system.conditional:
        raise ValueError("--by-class needs a model that was trained with classes")
    name = against or ("held-out" if run.held_out else "train")
    labels, pictures = _reference(run, name, device)
    sampling = run.system.options(**{option: value for option, value in asked.items() if value is not None})
    made = drawn(run.system, labels, device=device, **asked)
    rebuilt = reconstructed(run.system, run.some, device=device)
    reference, of_made = features.of(pictures), features.of(made)
    classes = None
    if by_class:
        found = compare_classes(reference, of_made, (labels, labels))
        classes = {run.format.class_names[label]: one for label, one in found.items()}
    seen = None
    if name == "train" and run.held_out:
        seen = copied(run.train(), made, of_made, features.of(_shown(run.some, device)), device=device)
    return Comparison(
        against=name,
        sampling=sampling,
        drawn=compare_sets(reference, of_made),
        rebuilt=None if rebuilt is None else compare_sets(reference, features.of(rebuilt)),
        classes=classes,
        copies=seen,
    )


def _shown(images: Images, device: torch.device) -> list[Tensor]:
    from ..data.images import in_chunks

    return [shown for shown, _ in in_chunks(images, device)]


def _reference(run: Measured, name: str, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """The labels int64 [N] to draw, and the pictures to compare with, in batches [B, C, H, W] in [−1, 1]."""
    from ..data.images import Part, evenly, labels_of

    if name == "held-out":
        if not run.held_out:
            raise UserError("--against held-out needs held-out images, and the run was trained on all that there are")
        return labels_of(run.some), _shown(run.some, device)
    if name == "train":
        train = run.train()
        some = Part(train, evenly(len(train), len(run.some)))
        return labels_of(some), _shown(some, device)
    path = Path(name)
    if not path.is_dir():
        raise UserError(f"--against must be held-out, train, a run or a folder of images, got {name}")
    if (path / "checkpoints").is_dir() or (path / "state.json").is_file():
        labels = labels_of(run.some)
        return labels, _of_run(path, run.format, labels, device)
    return _of_folder(path, run.format, len(run.some), device)


def _of_run(path: Path, format: ImageFormat, labels: Tensor, device: torch.device) -> list[Tensor]:
    """What another run draws of the same classes, from the same noise."""
    from ..recipes.runs import trained
    from ..systems.compared import drawn
    from ..systems.generative import GenerativeSystem
    from ..training import checkpoint

    saved = checkpoint.read(path)
    _, _, system = trained(saved)
    if not isinstance(system, GenerativeSystem):
        raise UserError(f"--against {path}: the recipe {saved.state['recipe']} trains no model that draws images")
    if (saved.images.shape, saved.images.class_names) != (format.shape, format.class_names):
        raise UserError(
            f"--against {path}: its images have shape {saved.images.shape}, this run's have {format.shape}, or their "
            "classes have other names"
        )
    return drawn(system.to(device), labels, device=device)


def _of_folder(path: Path, format: ImageFormat, most: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """The pictures of a folder, and their classes where its sub-folders are called like these or by their numbers.

    Otherwise the classes to draw are spread evenly.
    """
    import torch

    from ..data.folder import ImageFolder
    from ..data.images import Part, evenly, labels_of

    if format.frames is not None or format.channels not in (1, 3):
        raise UserError(f"--against {path}: a folder has images of 1 or 3 channels, and the run's are {format.shape}")
    images = ImageFolder(path, format.size)
    some = Part(images, evenly(len(images), most))
    pictures = _shown(some, device)
    if format.channels == 1:
        pictures = [shown.mean(1, keepdim=True) for shown in pictures]
    names = {name: label for label, name in enumerate(format.class_names)}
    numbers = {str(label): label for label in range(len(format.class_names))}
    classes = [names.get(name, numbers.get(name)) for name in images.format.class_names]
    if None in classes:
        return torch.arange(len(some)) % len(format.class_names), pictures
    return torch.tensor(classes)[labels_of(some)], pictures

"""What all systems that draw images of classes ask of labels and of guidance."""

from __future__ import annotations

import torch
from torch import Tensor


def check_labels(labels: Tensor, classes: int) -> None:
    """ValueError unless all are classes, in [0, classes)."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")


def guidance_after(label_drop: float, wanted: float, *, asked: bool) -> float:
    """The weight of guidance to draw with, `wanted` where training leaves a choice.

    A network that always saw the label, or never did, has nothing to be guided by: 1 and 0 are all it has. ValueError
    where another was `asked` for.
    """
    only = {0.0: 1.0, 1.0: 0.0}.get(label_drop, wanted)
    if asked and wanted != only:
        raise ValueError(
            f"guidance must be {only:g} for a model that was trained with label_drop {label_drop:g}, got {wanted}"
        )
    return only


def without_class(label_drop: float, null_label: int, seeds: Tensor) -> Tensor:
    """The label "no class" for each of the seeds [B]; ValueError for a network that has never seen it."""
    if label_drop == 0:
        raise ValueError("an image without a class must be known to the model: train with --label-drop above 0")
    return torch.full_like(seeds, null_label)

"""What is trained when a classifier is, whose features serve other systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.images import Images, in_chunks, to_range
from ..data.order import Batch
from ..models.classifier import Classifier
from ..training.system import System

_COLUMNS = 10


class ClassifierSystem(System):
    """A classifier with the cross-entropy of its labels (in nats)."""

    figure = "predictions"
    metric_names = ("accuracy",)

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self._hits: list[Tensor] = []

    def forward(self, batch: Batch) -> Tensor:
        logits = self.classifier(to_range(batch.images)).float()
        self._hits.append((logits.argmax(1) == batch.labels).float().mean())
        return F.cross_entropy(logits, batch.labels, reduction="none")

    def metrics(self) -> dict[str, Tensor]:
        accuracy = torch.stack(self._hits).mean()
        self._hits.clear()
        return {"accuracy": accuracy}

    def _classify(self, images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
        """The class each of `images` is taken for, and its own, both int64 [N] on the CPU."""
        taken, own = [], []
        for shown, labels in in_chunks(images, device):
            taken.append(self.classifier(shown).argmax(1))
            own.append(labels)
        return torch.cat(taken).cpu(), torch.cat(own).cpu()

    @torch.no_grad()
    def draw(self, images: Images, *, seed: int, device: torch.device) -> tuple[Tensor, Sequence[str]]:
        """A row a class: the first images that are taken for it, on grey where there are too few."""
        taken, _ = self._classify(images, device)
        names = images.format.class_names
        grey = torch.zeros(1, *images.format.shape)
        rows = []
        for label in range(len(names)):
            indices = (taken == label).nonzero()[:_COLUMNS, 0].tolist()
            row = to_range(images.read(indices)[0]) if indices else grey
            rows.append(torch.cat((row, grey.expand(_COLUMNS - len(row), -1, -1, -1))))
        return torch.stack(rows), names

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """The share of `images` taken for what they are."""
        taken, own = self._classify(images, device)
        return {"accuracy": float((taken == own).float().mean())}

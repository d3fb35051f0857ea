"""Classes as conditions: what a network is told of a label, and how often it is told nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check as check
from .. import ops
from .conditions import AnyCondition, Condition


class Labels(nn.Module):
    """Labels int64 [B] as they are, for networks that embed them; the label `classes` stands for "no class".

    drop: the share of samples that training tells no class, which guidance needs (0.1 is usual). ValueError for a
    share outside [0, 1], and for no classes.

    frozen: names of sub-modules that come trained and stay as they are.
    """

    frozen: tuple[str, ...] = ()

    def __init__(self, classes: int, drop: float = 0.0) -> None:
        super().__init__()
        check.integer(classes, "classes", 1)
        check.real(drop, "label_drop", 0, 1)
        self.null_label, self.drop = classes, drop

    def dropped(self, labels: Tensor, seeds: Tensor) -> Tensor:
        """The labels of samples, some replaced by `null_label`: a sample's seed alone decides it."""
        drawn = ops.uniform(seeds, (1,), stream=ops.Purpose.LABEL_DROP.stream()).squeeze(1)
        return torch.where(drawn <= self.drop, self.null_label, labels)

    def forward(self, labels: Tensor) -> AnyCondition:
        """What a network is told of labels int64 [B], `null_label` among them."""
        return labels


class ClassCondition(Labels):
    """Each class, and "no class", as a vector that is learned: the pooled part, and the only token, of a `Condition`.

    width: of the vectors. Other arguments are as of `Labels`.
    """

    def __init__(self, classes: int, width: int, drop: float = 0.0) -> None:
        super().__init__(classes, drop)
        self.embed = nn.Embedding(classes + 1, width)

    def forward(self, labels: Tensor) -> AnyCondition:
        vectors = self.embed(labels)
        return Condition(vectors, vectors[:, None])

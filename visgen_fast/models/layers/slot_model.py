"""What the transformers of codes have in common: slots before them, and logits after them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ...autoregression.model import CodeModel
from ...autoregression.order import Order
from ...nn.conditions import AnyCondition
from .checks import check_sizes
from .labels import LabelEmbedding, PooledEmbedding


class SlotModel(CodeModel):
    """A model of codes by transformers over slots: a slot is what it holds, its place and what the model is told.

    A norm and a head make the logits of what the last transformer gives. What a slot holds, and which slots there are,
    is the model's own.

    order, size: as of `CodeModel`. width: of a slot. places: how many there are, [places, width] that are learned.
    classes: number of labels, to which `null_label` = classes is added as "no class"; 0 for a model without. pooled: in
    the place of classes, features of the pooled part of a `Condition`; its null is whoever's who tells it.

    ValueError where a size is below 1, and for both classes and pooled.
    """

    def __init__(
        self, order: Order, size: int, *, width: int, places: int, classes: int = 0, pooled: int | None = None
    ) -> None:
        super().__init__()
        check_sizes(size=size, width=width)
        if classes and pooled is not None:
            raise ValueError("either classes or pooled may be given, not both")
        self.order, self.size, self.null_label = order, size, classes or None
        told = LabelEmbedding(classes, width) if pooled is None else PooledEmbedding(pooled, width)
        self.embed_label: nn.Module = told
        self.places = nn.Parameter(0.02 * torch.randn(places, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @abstractmethod
    def features(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        """What the head maps to logits: [B, *grid, Q, width], for codes and condition as of `forward`."""

    def forward(self, codes: Tensor, condition: AnyCondition = None) -> Tensor:
        return self.head(self.features(codes, condition))


def embedding(count: int, width: int) -> nn.Embedding:
    """A vector [width] for each of `count` values of a code, small at first."""
    made = nn.Embedding(count, width)
    nn.init.normal_(made.weight, std=0.02)
    return made


def start_slot(width: int) -> nn.Parameter:
    """What the first slot holds, [1, 1, width]."""
    return nn.Parameter(0.02 * torch.randn(1, 1, width))


def slots_of(held: Tensor, places: Tensor, told: Tensor | None) -> Tensor:
    """Slots [B, n, width] that hold this, at these places [n, width], told [B, width] or nothing."""
    slots = held + places
    return slots if told is None else slots + told[:, None]

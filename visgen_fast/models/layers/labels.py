"""What a network is told, as vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...nn.conditions import AnyCondition, Condition


class LabelEmbedding(nn.Module):
    """Labels int64 [B] as vectors [B, width]; the label `classes` stands for "no class", 0 classes for no labels.

    deviation: of the vectors' features before they learn.
    """

    def __init__(self, classes: int, width: int, deviation: float = 0.02) -> None:
        super().__init__()
        if classes < 0:
            raise ValueError(f"classes must be at least 0, got {classes}")
        self.null_label = classes if classes else None
        self.embed = nn.Embedding(classes + 1, width) if classes else None
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, std=deviation)

    def forward(self, condition: AnyCondition) -> Tensor | None:
        """ValueError for labels of a network without classes, and for none of one that has some."""
        if self.embed is None:
            if condition is not None:
                raise ValueError("the condition must be None for a model without classes")
            return None
        if not isinstance(condition, Tensor):
            raise ValueError(f"the condition must be labels int64 [B], got {type(condition).__name__}")
        return self.embed(condition)


class ClassEmbedding(nn.Embedding):
    """A vector of `width` for each of the labels [0, classes], the last of which stands for "no class"."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes + 1, width)

    def forward(self, condition: AnyCondition) -> Tensor:
        """Labels int64 [B] to [B, width]; ValueError for a condition of another kind."""
        if not isinstance(condition, Tensor):
            raise ValueError(f"this network is told labels int64 [B], got a condition {_kind(condition)}")
        return super().forward(condition)


class PooledEmbedding(nn.Sequential):
    """The pooled part [B, features] of a `Condition` as vectors [B, width], by an MLP of its normalisation."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__(nn.LayerNorm(features), nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, condition: AnyCondition) -> Tensor:
        """ValueError for a condition without that part."""
        if not isinstance(condition, Condition) or condition.pooled is None:
            raise ValueError(f"this network is told a Condition with a pooled part, got a condition {_kind(condition)}")
        return super().forward(condition.pooled)


class TokenEmbedding(nn.Sequential):
    """The tokens [B, L, features] of a `Condition` as vectors [B, L, width], and which of them count."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__(nn.LayerNorm(features), nn.Linear(features, width))

    def forward(self, condition: AnyCondition) -> tuple[Tensor, Tensor]:
        """The vectors, and bool [B, L]; ValueError for a condition without tokens."""
        if not isinstance(condition, Condition) or condition.tokens is None:
            raise ValueError(f"this network is told a Condition with tokens, got a condition {_kind(condition)}")
        tokens, mask = condition.tokens, condition.mask
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return super().forward(tokens), mask


def _kind(condition: AnyCondition) -> str:
    if isinstance(condition, Condition):
        return f"with {', '.join(condition.parts()) or 'nothing'}"
    return "of labels" if isinstance(condition, Tensor) else "None"

"""Labels as vectors, and networks without any."""

from __future__ import annotations

from torch import Tensor, nn

from ...nn.conditions import AnyCondition


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

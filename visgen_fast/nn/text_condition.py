"""Texts as conditions: what an encoder said of each is looked up, and "no text" is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .class_condition import Labels
from .conditions import AnyCondition, Condition, drop


class Texts(nn.Module):
    """What a text encoder says of N texts, one after another without padding.

    states: [T, D], of all their T tokens; lengths: int64 [N], how many each text has, at least 1. ValueError where
    these don't fit together.
    """

    states: Tensor
    lengths: Tensor

    def __init__(self, states: Tensor, lengths: Tensor) -> None:
        super().__init__()
        if states.dim() != 2 or lengths.dim() != 1 or not len(lengths) or int(lengths.min()) < 1:
            raise ValueError(
                "texts must be states [T, D] and lengths [N] of at least 1, got "
                f"{list(states.shape)} and {list(lengths.shape)}"
            )
        if int(lengths.sum()) != len(states):
            raise ValueError(f"lengths must add up to the {len(states)} states, got {int(lengths.sum())}")
        self.register_buffer("states", states)
        self.register_buffer("lengths", lengths)
        self.longest = int(lengths.max())

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Features of a state."""
        return self.states.shape[1]

    def forward(self, labels: Tensor) -> Condition:
        """The texts of these numbers, int64 [B]: tokens [B, L, D] with 0 for padding, its mask, and their mean.

        L is `longest`, whatever the texts are.
        """
        lengths = self.lengths[labels]
        place = torch.arange(self.longest, device=labels.device)
        mask = place < lengths[:, None]
        first = (self.lengths.cumsum(0) - self.lengths)[labels]
        tokens = self.states[torch.where(mask, first[:, None] + place, 0)] * mask[..., None]
        return Condition(tokens.sum(1) / lengths[:, None], tokens, mask)


class TextCondition(Labels):
    """Texts, by their numbers, as what an encoder said of them; "no text" is a vector and a token that are learned.

    A label is the number of a text; `null_label`, their count, stands for none. drop: as of `Labels`.
    """

    frozen = ("texts",)

    def __init__(self, texts: Texts, drop: float = 0.0) -> None:
        super().__init__(len(texts), drop)
        self.texts = texts
        self.null_pooled, self.null_token = (nn.Parameter(0.02 * torch.randn(texts.width)) for _ in range(2))

    @property
    def null(self) -> Condition:
        """What stands for "no text", of one sample."""
        return Condition(self.null_pooled[None], self.null_token[None, None])

    def tell(self, texts: Texts) -> None:
        """From now on labels are numbers of these texts. ValueError for those of another encoder."""
        if texts.width != self.texts.width:
            raise ValueError(f"texts must have states of {self.texts.width} features, got {texts.width}")
        self.texts, self.null_label = texts, len(texts)

    def forward(self, labels: Tensor) -> AnyCondition:
        absent = labels == self.null_label
        return drop(self.texts(torch.where(absent, 0, labels)), absent, self.null)

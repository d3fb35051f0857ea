"""Heads that judge images by the features of a frozen network: the discriminators of ADD and LADD.

Sauer et al., "Adversarial diffusion distillation", 2023, and "Fast high-resolution image synthesis with latent
adversarial diffusion distillation", 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureHeads(nn.Module):
    """A head for each of several features; a logit for each place of each.

    widths: channels of the features; classes: number of labels, by which logits are judged too (Miyato and Koyama,
    "cGANs with projection discriminator", 2018). ValueError for none, or a size below 1.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        if not widths or min(*widths, classes) < 1:
            raise ValueError(f"widths and classes must be at least 1, got {list(widths)} and {classes}")
        self.heads = nn.ModuleList(Head(width, classes) for width in widths)

    def forward(self, features: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits [B, places]. features: [B, width, H, W] or tokens [B, N, width] each; labels: int64 [B]."""
        tokens = [one.flatten(2).mT if one.dim() == 4 else one for one in features]
        return torch.cat([head(one, labels) for head, one in zip(self.heads, tokens, strict=True)], 1)


class Head(nn.Module):
    """Tokens [B, N, width] to logits [B, N]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.hidden = nn.LayerNorm(width), nn.Linear(width, width)
        self.output, self.embed_label = nn.Linear(width, 1), nn.Embedding(classes, width)
        nn.init.zeros_(self.embed_label.weight)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        h = F.silu(self.hidden(self.norm(tokens)))
        projected = (h * self.embed_label(labels)[:, None]).sum(-1) / h.shape[-1] ** 0.5
        return self.output(h).squeeze(-1) + projected

"""TarFlow: autoregressive transformers over patches, one after the other in alternating order.

Zhai et al., "Normalizing flows are capable generative models", 2024. Here the first patch too is scaled and shifted,
by what the label says alone.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..models.layers.checks import check_sizes
from ..models.layers.code_transformer import Transformer
from ..models.layers.patches import patchify, unpatchify
from ..nn.conditions import AnyCondition
from .flow import Flow


class TarFlow(Flow):
    """Blocks that each scale and shift every patch by functions of the patches before it, in turns from both ends.

    image_size: pixels, one number or (height, width). patch_size: side of a patch. blocks: how many. width, depth,
    heads: of each block's transformer. classes: number of labels, to which `null_label` = classes is added as "no
    class".

    ValueError where a size is below 1, patch_size does not divide the image, or heads does not divide width.
    """

    guidable = True

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        blocks: int,
        heads: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        check_sizes(image_size=self.image_size, channels=channels, patch_size=patch_size, blocks=blocks)
        if any(side % patch_size for side in self.image_size):
            raise ValueError(f"patch_size must divide image_size {self.image_size}, got {patch_size}")
        self.shape, self.patch_size, self.null_label = (channels, *self.image_size), patch_size, classes
        features = channels * patch_size**2
        length = channels * self.image_size[0] * self.image_size[1] // features
        self.blocks = nn.ModuleList(
            Block(length, features, width, depth, heads, classes, number % 2 == 1) for number in range(blocks)
        )

    def forward(self, x: Tensor, condition: AnyCondition = None) -> tuple[Tensor, Tensor]:
        labels = self.labels_for(x, condition)
        patches, total = patchify(x, self.patch_size), x.new_zeros(len(x))
        for block in self.blocks:
            patches, log_determinant = block(patches, labels)
            total = total + log_determinant
        return unpatchify(patches, self.patch_size, self.image_size), total

    @torch.no_grad()
    def inverse(self, z: Tensor, condition: AnyCondition = None, *, guidance: float = 1.0) -> Tensor:
        """As of `Flow`, patch by patch, with caches, and without a gradient."""
        labels = self.labels_for(z, condition, "z")
        patches = patchify(z, self.patch_size)
        for block in reversed(self.blocks):
            patches = cast(Block, block).inverse(patches, labels, guidance)
        return unpatchify(patches, self.patch_size, self.image_size)


class Block(nn.Module):
    """z_i = (x_i − μ_i)·exp(−α_i) for patches x_i, with μ_i and α_i of a transformer that sees those before i.

    backwards: whether the last patch comes first.
    """

    def __init__(
        self, length: int, features: int, width: int, depth: int, heads: int, classes: int, backwards: bool
    ) -> None:
        super().__init__()
        steps = torch.arange(length, device="cpu")
        self.transformer = Transformer(steps, width=width, depth=depth, heads=heads)
        self.embed, self.embed_label = nn.Linear(features, width), nn.Embedding(classes + 1, width)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2 * features)
        nn.init.normal_(self.embed_label.weight, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.null_label, self.backwards = classes, backwards

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [B, N, features] to (z of the same shape, the logarithm of the determinant [B])."""
        x = self._in_order(x)
        held = torch.cat((self.start.expand(len(x), 1, -1), self.embed(x[:, :-1])), 1)
        slots = held + self.places + self.embed_label(labels)[:, None]
        shift, log_scale = self._terms(self.transformer(slots), x)
        return self._in_order((x - shift) * (-log_scale).exp()), -log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, labels: Tensor, guidance: float) -> Tensor:
        """z to patches. The weight of guidance grows from 1 at the first patch to `guidance` at the last."""
        z, guided, length = self._in_order(z), guidance != 1, z.shape[1]
        if guided:
            labels = torch.cat((labels, torch.full_like(labels, self.null_label)))
        label, held = self.embed_label(labels)[:, None], self.start.expand(len(labels), 1, -1)
        cache = self.transformer.begin(len(labels), held)
        patches: list[Tensor] = []
        for place in range(length):
            if patches:
                held = self.embed(torch.cat((patches[-1],) * (1 + guided)))
            slot = self.transformer.advance(cache, held + self.places[place] + label)
            terms = torch.stack(self._terms(slot, z))
            if guided:
                told, untold = terms.chunk(2, 1)
                terms = untold + (1 + (guidance - 1) * place / max(length - 1, 1)) * (told - untold)
            shift, log_scale = terms
            patches.append(z[:, place : place + 1] * log_scale.exp() + shift)
        return self._in_order(torch.cat(patches, 1))

    def _terms(self, slots: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.head(self.norm(slots)).to(like.dtype).chunk(2, -1)
        return shift, log_scale

    def _in_order(self, patches: Tensor) -> Tensor:
        return patches.flip(1) if self.backwards else patches

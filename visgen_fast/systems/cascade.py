"""What is trained when a model of codes is that are drawn after those of the same image at half its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..autoregression.cascade import Cascade
from ..autoregression.prior import CodePrior
from ..autoregression.sampling import checked_codes
from ..data.images import to_range
from ..diffusion.sampling import Callback
from ..evaluation.codes import Codec
from ..nn.class_condition import Labels
from ..tokenizers.code_stage import CodeStage
from ..tokenizers.places import grids_of
from .codes import CodeSystem


@dataclass(frozen=True)
class CoarseToFine:
    """Images to the codes of the image at half its size, and then its own, [L, Q]; back from its own alone.

    grid: of its own codes.
    """

    coarse: Codec
    fine: Codec
    grid: Sequence[int]

    def encode(self, images: Tensor) -> Tensor:
        both = self.coarse.encode(halved(images)), self.fine.encode(images)
        return torch.cat([codes.flatten(1, -2) for codes in both], 1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.fine.decode(codes[:, -math.prod(self.grid) :].unflatten(1, self.grid))


class CascadeSystem(CodeSystem):
    """A `CodeSystem` that draws its codes after those that another one draws of the image at half its size.

    coarse: that other system, which stays as it is and draws as its own settings say. prior: with a model of all codes
    [L, Q], as the fine one of `Cascade`; it learns what it draws itself. grid: of the tokenizer's codes.

    Bits are those of all codes, the coarse ones included. ValueError where the two don't fit together.
    """

    def __init__(
        self, prior: CodePrior, condition: Labels, first_stage: CodeStage, *, coarse: CodeSystem, grid: Sequence[int]
    ) -> None:
        super().__init__(prior, condition, first_stage)
        self.coarse, self.grid, self.frozen = coarse, tuple(grid), (*self.frozen, "coarse")
        self.places = self.measured.places
        later = torch.arange(self.model.order.shape[0]) >= self.places
        prior.own = later[:, None].expand(self.model.order.shape)

    @property
    def codec(self) -> Codec:
        return CoarseToFine(self.coarse.codec, super().codec, self.grid)

    @property
    def grids(self) -> list[tuple[int, int]]:
        coarse, fine = self.coarse.grids, grids_of(self.tokenizer, self.grid)
        return [*coarse, *fine] if coarse and fine else []

    @property
    def measured(self) -> Cascade:
        return Cascade(self.coarse.measured, self.model)

    @torch.no_grad()
    def draw_latents(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        callback: Callback | None = None,
        known: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        given = checked_codes(torch.full((1, 1), -1) if known is None else known, self.model, seeds)
        coarse, fine = given.split([self.places, given.shape[1] - self.places], 1)
        own = ops.derive_seeds(seeds, torch.zeros_like(seeds), purpose=ops.Purpose.CODE)
        shape = self.coarse.measured.order.shape
        coarse = self.coarse.draw_latents(labels, own, known=coarse.unflatten(1, shape[:-1]))
        known = torch.cat((coarse.flatten(1, -2), fine), 1)
        return super().draw_latents(labels, seeds, callback=callback, known=known, **options)


def halved(images: Tensor) -> Tensor:
    """Images [B, C, H, W] in [−1, 1] at half their size, to a unit of a pixel as `data.images.resized` makes them."""
    return shrunk(images, 2)


def shrunk(images: Tensor, factor: int) -> Tensor:
    """The same at 1/factor of their size."""
    pixels, (height, width) = images.float().add(1).mul(127.5), images.shape[2:]
    for size in ((height, width // factor), (height // factor, width // factor)):  # which rounds after either direction
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return to_range(pixels)

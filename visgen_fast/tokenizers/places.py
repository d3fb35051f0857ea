"""Where in an image its codes belong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .grid import GridTokenizer
from .next_scale import MultiscaleTokenizer
from .titok import TiTok
from .tokenizer import Tokenizer
from .vq_vae_2 import VQVAE2


def code_shape(tokenizer: Tokenizer, height: int, width: int) -> tuple[int, ...]:
    """[*grid, Q] of the codes of images of these sides."""
    if isinstance(tokenizer, GridTokenizer):
        factor = tokenizer.encoder.reduction
        return height // factor, width // factor, tokenizer.quantizer.depth
    if isinstance(tokenizer, TiTok):
        return tokenizer.encoder.tokens, tokenizer.quantizer.depth
    assert isinstance(tokenizer, VQVAE2 | MultiscaleTokenizer)
    return sum(tokenizer.quantizer.lengths), 1


def grids_of(tokenizer: nn.Module, shape: Sequence[int]) -> list[tuple[int, int]]:
    """The grids (rows, columns) over the image, one after the other, whose places codes [*shape, Q] have.

    None for codes that belong to no place of the image (TiTok). shape: without Q.
    """
    if len(shape) == 2:
        return [(shape[0], shape[1])]
    if isinstance(tokenizer, VQVAE2):
        return list(tokenizer.grids)
    return list(tokenizer.quantizer.grids) if isinstance(tokenizer, MultiscaleTokenizer) else []


def above(grids: Sequence[tuple[int, int]], share: float) -> Tensor:
    """bool [places]: which places of the grids lie in the upper `share` of the image, to the nearest row of each."""
    flags = [torch.arange(rows * columns) < round(rows * share) * columns for rows, columns in grids]
    return torch.cat(flags)


def outside(grids: Sequence[tuple[int, int]], mask: Tensor) -> Tensor:
    """bool [places]: the places of the grids whose part of the image a mask, bool [H, W], leaves out altogether."""
    flags = [F.adaptive_max_pool2d(mask[None].float(), grid)[0].flatten() == 0 for grid in grids]
    return torch.cat(flags)


def maps(values: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Values of places, in their shape, as a map [rows, columns] of each grid; as they are, where there is none."""
    if not grids:
        return [values]
    pieces = values.flatten().split([math.prod(grid) for grid in grids])
    return [piece.view(grid) for piece, grid in zip(pieces, grids, strict=True)]

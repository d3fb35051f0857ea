"""Where in images and in their order a model of codes pays its bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..autoregression.likelihood import nll
from ..autoregression.model import CodeModel
from ..nn.conditions import AnyCondition


class Codec(Protocol):
    """What turns images [B, C, H, W] in [−1, 1] into codes int64 [B, *grid, Q], and back."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class CodeEvaluation:
    """A code model's measures: bits, −log₂ p, means over the images; tensors float64 on the CPU.

    Attributes:
        images: how many were measured.
        bits_per_code, bits_per_image: the latter is the sum over an image's codes.
        bits_per_dim: of a value of a pixel; None where the codes of an image lose something.
        by_position: of all codes of a place, [*grid].
        by_depth: of the codes with the same index at their places, the mean over these, [Q].
        by_step: of all codes of a step of the order, [steps].
    """

    images: int
    bits_per_code: float
    bits_per_image: float
    bits_per_dim: float | None
    by_position: Tensor
    by_depth: Tensor
    by_step: Tensor


@torch.no_grad()
def evaluate_codes(
    model: CodeModel, codec: Codec, batches: Iterable[tuple[Tensor, AnyCondition]], *, stepwise: bool = False
) -> CodeEvaluation:
    """Measures `model` on the codes of images: batches of [B, C, H, W] in [−1, 1], with what the model is told of them.

    stepwise: as of `nll`. ValueError without an image.

    Source: van den Oord et al., "Pixel recurrent neural networks", 2016, section 5.1, for bits per dimension.
    """
    order, images, values, exact = model.order, 0, 1, True
    total = torch.zeros(order.shape, dtype=torch.float64)
    for shown, condition in batches:
        codes = codec.encode(shown)
        total += nll(model, codes, condition, stepwise=stepwise).double().sum(0).cpu()
        exact = exact and torch.equal(codec.decode(codes), shown)
        images, values = images + len(shown), math.prod(shown.shape[1:])
    if images == 0:
        raise ValueError("batches must hold at least one image")
    bits = total / (images * math.log(2))
    per_image = float(bits.sum())
    return CodeEvaluation(
        images=images,
        bits_per_code=per_image / order.length,
        bits_per_image=per_image,
        bits_per_dim=per_image / values if exact else None,
        by_position=bits.sum(-1),
        by_depth=bits.flatten(0, -2).mean(0),
        by_step=bits.new_zeros(order.count).index_add(0, order.steps.flatten(), bits.flatten()),
    )

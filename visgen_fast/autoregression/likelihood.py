"""How probable codes are to a model, each given those of earlier steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..nn.conditions import AnyCondition
from .model import CodeModel
from .order import Order


def nll(
    model: CodeModel,
    codes: Tensor,
    condition: AnyCondition = None,
    *,
    order: Order | None = None,
    stepwise: bool = False,
) -> Tensor:
    """−ln p of each code given those of earlier steps; their sum is that of the whole array.

    Of one pass it has a gradient: the mean over all codes is the loss to train with.

    Args:
        model: a model of codes.
        codes: int64 [B, *grid, Q].
        condition: labels int64 [B], or None for a model without classes.
        order: for a masked model, the order to be asked in; others have one, their own.
        stepwise: asks step by step, as `sample` does, in the place of one pass. Masked models have no other way.

    Returns:
        [B, *grid, Q], nats, float64 for logits of float64, else float32.

    Raises:
        ValueError: codes of another shape, a foreign order, a masked model without `stepwise`, or a model of no codes:
            MAR draws vectors, and has no exact likelihood.

    Source: Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis", 2021, equation 11.
    """
    if not isinstance(model, CodeModel):
        raise ValueError(f"model must be a CodeModel: {type(model).__name__} has no exact likelihood")
    if order is not None:
        model = model.in_order(order)
    if tuple(codes.shape[1:]) != model.order.shape:
        raise ValueError(f"codes must be [B, {', '.join(map(str, model.order.shape))}], got {list(codes.shape)}")
    if not stepwise:
        if not model.one_pass:
            raise ValueError("a masked model has a stepwise likelihood alone: stepwise must be True")
        return _cross_entropy(model(codes, condition), codes)
    return _stepwise(model, codes, condition)


@torch.no_grad()
def _stepwise(model: CodeModel, codes: Tensor, condition: AnyCondition) -> Tensor:
    sequence, state, losses = model.order.to_sequence(codes), model.begin(condition), []
    steps = sequence.split(model.order.sizes, 1)
    for last, targets in zip((sequence[:, :0], *steps), steps, strict=False):
        losses.append(_cross_entropy(model.advance(state, last), targets))
    return model.order.to_array(torch.cat(losses, 1))


def _cross_entropy(logits: Tensor, codes: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)

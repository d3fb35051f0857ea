"""Classifier-free guidance (Ho and Salimans, 2022): one network learns with and without the condition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from visgen_fast import ops

from ..nn.conditions import AnyCondition, Null, concatenate, drop, null_like


def drop_labels(labels: AnyCondition, seeds: Tensor, probability: float, null_label: Null) -> AnyCondition:
    """`labels`, or any condition, replaced by the null one with this probability, decided by a sample's seed alone.

    labels: a condition of B samples. seeds: int64 [B]. null_label: its null. ValueError unless 0 ≤ probability ≤ 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    drawn = ops.uniform(seeds, (1,), stream=ops.Purpose.LABEL_DROP.stream()).squeeze(1)
    return drop(labels, drawn <= probability, null_label)


def guided(
    model: Callable[..., Tensor],
    x_t: Tensor,
    t: Tensor,
    labels: AnyCondition,
    *,
    scale: float = 1.0,
    null_label: Null = None,
) -> Tensor:
    """The guided prediction, unconditional + scale·(conditional − unconditional), in the model's own kind.

    At a fixed x_t the combination is the same for x, ε, v and velocity. scale 1 is the conditional model, one call at
    batch B; any other scale is one call at batch 2B and needs `null_label`, the null of "no class" (ValueError).

    x_t: [B, ...]; t: [B]; labels: a condition of B samples, int64 [B] for classes. Returns the model's output.
    """
    if scale == 1:
        return model(x_t, t, labels)
    if null_label is None:
        raise ValueError(f"null_label must be given for a guidance scale other than 1, got scale {scale}")
    both = concatenate((labels, null_like(labels, null_label)))
    conditional, unconditional = model(torch.cat((x_t, x_t)), torch.cat((t, t)), both).chunk(2)
    return unconditional + scale * (conditional - unconditional)

"""Sampling: one loop draws the codes of any model in any order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..nn.conditions import AnyCondition, Null, concatenate, null_like
from . import graphs
from .loop import Draws, loop
from .model import CodeModel

Guidance = float | Tensor | Callable[[float], float | Tensor]
Callback = Callable[[int, Tensor], None]


@torch.no_grad()
def sample(
    model: CodeModel,
    condition: AnyCondition,
    seeds: Tensor,
    *,
    null: Null = None,
    guidance: Guidance = 1.0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    known: Tensor | None = None,
    graph: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Draws codes step by step, those of a step together.

    A sample's codes depend on its seed and its condition alone, up to the rounding of the network. Step t draws from
    `Purpose.CODE.stream(t)` of the seed.

    Args:
        model: in eval mode.
        condition: labels int64 [B], a `Condition`, both on the seeds' device, or None for a model that is told nothing.
        seeds: int64 [B].
        null: what stands for no condition; by default the model's `null_label`.
        guidance: u + guidance·(c − u) of conditional and unconditional logits, which are made in one call at batch 2B;
            1 is the conditional ones alone, in a call at batch B. A number, a tensor [B], or a function of the progress
            that gives one: 0 at the first step, 1 at the last (Chang et al., "Muse", 2023; Tian et al., "VAR", 2024).
        temperature, top_k, top_p: as of `ops.sample_tokens`.
        known: int64, broadcastable to [B, *grid, Q]: codes that stay, and −1 where one is drawn. A known code has no
            influence on what is drawn before it.
        graph: on CUDA, captures the whole loop, network and draws included, at the second call of its kind, and replays
            it, which spares a small model most of its time; callbacks then come after the last step. What cannot be
            captured runs eagerly, with a warning that names why. `release_graphs` lets go of the graphs.
        callback: called with (step, codes) after each step, from 0 on; codes not yet drawn are −1.

    Returns:
        codes int64 [B, *grid, Q].

    Raises:
        ValueError: guidance of a model without a null label, known codes of another shape or range, and logits that are
            not finite.
    """
    order = model.order
    scales, condition = guided(model, condition, null, guidance, order.count)
    draws = Draws(scales, temperature, top_k, top_p)
    given = None if known is None else order.to_sequence(checked_codes(known, model, seeds))

    def show(step: int, sequence: Tensor) -> None:
        if callback is not None:
            callback(step, order.to_array(sequence.clone()))

    sequence = graphs.replayed(model, draws, condition, seeds, given) if graph else None
    if sequence is None:
        sequence = loop(model, draws, condition, seeds, given, None if callback is None else show)
    elif callback is not None:
        steps = order.to_sequence(order.steps[None]).to(sequence.device)
        for step in range(order.count):
            show(step, torch.where(steps <= step, sequence, -1))
    _require_drawn(sequence, torch.tensor(order.sizes).cumsum(0).tolist())
    return order.to_array(sequence)


def guided(
    model: CodeModel, condition: AnyCondition, null: Null, guidance: Guidance, steps: int
) -> tuple[tuple[float | Tensor, ...] | None, AnyCondition]:
    """The guidance of each step and the condition with its null after it; without guidance None and the condition.

    ValueError for guidance of a model without a null.
    """
    if isinstance(guidance, int | float) and guidance == 1:
        return None, condition
    null = model.null_label if null is None else null
    if null is None:
        raise ValueError("guidance must be 1 for a model without a null label: it has nothing to be guided by")
    both = concatenate([condition, null_like(condition, null)])
    if callable(guidance):
        return tuple(guidance(step / max(steps - 1, 1)) for step in range(steps)), both
    return (guidance,) * steps, both


def checked_codes(known: Tensor, model: CodeModel, seeds: Tensor) -> Tensor:
    """Known codes, as of `sample`, expanded to [B, *grid, Q]; ValueError for those of another shape or range."""
    shape = (len(seeds), *model.order.shape)
    try:
        expanded = known.to(seeds.device).expand(shape)
    except RuntimeError as error:
        raise ValueError(f"known must be broadcastable to {list(shape)}, got {list(known.shape)}") from error
    if known.dtype != torch.int64 or bool(((known < -1) | (known >= model.size)).any()):
        raise ValueError(f"known must be int64 codes in [0, {model.size}), or −1 where one is drawn")
    return expanded


def _require_drawn(sequence: Tensor, ends: list[int]) -> None:
    """ValueError where a code is −1, because its logits had NaN or +∞ or nothing finite."""
    bad = (sequence < 0).any(0)
    if bool(bad.any()):
        first = int(bad.long().argmax())
        step = next(step for step, end in enumerate(ends) if first < end)
        raise ValueError(f"the model's logits must be finite, or −∞ for some codes; at step {step} they are not")

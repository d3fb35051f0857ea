"""Sampling: one loop draws the codes of any model in any order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops
from ..nn.conditions import AnyCondition, concatenate, null_like
from .model import CodeModel

Guidance = float | Tensor | Callable[[float], float]
Callback = Callable[[int, Tensor], None]


@torch.no_grad()
def sample(
    model: CodeModel,
    condition: AnyCondition,
    seeds: Tensor,
    *,
    guidance: Guidance = 1.0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    known: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Draws codes step by step, those of a step together.

    A sample's codes depend on its seed and its condition alone, up to the rounding of the network. Step t draws from
    `Purpose.CODE.stream(t)` of the seed.

    Args:
        model: in eval mode.
        condition: labels int64 [B], on the seeds' device, or None for a model without classes.
        seeds: int64 [B].
        guidance: u + guidance·(c − u) of conditional and unconditional logits, which are made in one call at batch 2B;
            1 is the conditional ones alone, in a call at batch B. A number, a tensor [B], or a function of the progress
            that gives one: 0 at the first step, 1 at the last (Chang et al., "Muse", 2023; Tian et al., "VAR", 2024).
        temperature, top_k, top_p: as of `ops.sample_tokens`.
        known: int64, broadcastable to [B, *grid, Q]: codes that stay, and −1 where one is drawn. A known code has no
            influence on what is drawn before it.
        callback: called with (step, codes) after each step, from 0 on; codes not yet drawn are −1.

    Returns:
        codes int64 [B, *grid, Q].

    Raises:
        ValueError: guidance of a model without a null label, known codes of another shape or range, and logits that are
            not finite.
    """
    guided = not isinstance(guidance, int | float) or guidance != 1
    if guided:
        if model.null_label is None:
            raise ValueError("guidance must be 1 for a model without a null label: it has nothing to be guided by")
        condition = concatenate([condition, null_like(condition, model.null_label)])
    order = model.order
    given = None if known is None else order.to_sequence(_checked(known, model, seeds))
    sequence = seeds.new_full((len(seeds), order.length), -1)
    state, last = model.begin(condition), sequence[:, :0]
    ends = torch.tensor(order.sizes).cumsum(0).tolist()
    for step, (size, end) in enumerate(zip(order.sizes, ends, strict=True)):
        logits = model.advance(state, torch.cat((last, last)) if guided else last)
        conditional, unconditional = logits.chunk(2) if guided else (logits, None)
        drawn = ops.sample_tokens(
            conditional,
            seeds,
            unconditional=unconditional,
            guidance=guidance(step / max(order.count - 1, 1)) if callable(guidance) else guidance,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stream=ops.Purpose.CODE.stream(step),
        )
        assert isinstance(drawn, Tensor)  # no log-probability was asked for
        if given is not None:
            here = given[:, end - size : end]
            drawn = torch.where(here < 0, drawn, here)
        sequence[:, end - size : end] = drawn
        last = drawn.clamp_min(0)  # what is bad is said once, at the end: to look now would make a GPU wait
        if callback is not None:
            callback(step, order.to_array(sequence.clone()))
    _require_drawn(sequence, ends)
    return order.to_array(sequence)


def _checked(known: Tensor, model: CodeModel, seeds: Tensor) -> Tensor:
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

"""The loop that draws codes: nothing in it waits for the device, so that it may be captured as a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..nn.conditions import AnyCondition
from .model import CodeModel


@dataclass(frozen=True)
class Draws:
    """How codes are drawn from logits, by numbers or tensors [B] as of `ops.sample_tokens`.

    guidance: of each step, or None where the logits are the conditional ones alone.
    """

    guidance: tuple[float | Tensor, ...] | None
    temperature: float | Tensor
    top_k: int | Tensor | None
    top_p: float | Tensor | None


def loop(
    model: CodeModel,
    draws: Draws,
    condition: AnyCondition,
    seeds: Tensor,
    given: Tensor | None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The codes int64 [B, length] in the order of the draws; −1 where logits were not finite, no meaning after that.

    condition: for guidance, that of B samples and then their null. given: codes [B, length] that stay, −1 for others.
    watch: called with the step and the codes so far, −1 for those to come.
    """
    order = model.order
    sequence = seeds.new_full((len(seeds), order.length), -1)
    state, last, first = model.begin(condition), sequence[:, :0], 0
    for step, size in enumerate(order.sizes):
        logits = model.advance(state, torch.cat((last, last)) if draws.guidance else last)
        drawn, _ = draw(draws, step, logits, seeds)
        places = slice(first, first + size)
        if given is not None:
            drawn = torch.where(given[:, places] < 0, drawn, given[:, places])
        sequence[:, places] = drawn
        last, first = drawn.clamp_min(0), first + size  # what is bad is said once, at the end: to look now would wait
        if watch is not None:
            watch(step, sequence)
    return sequence


def draw(
    draws: Draws, step: int, logits: Tensor, seeds: Tensor, *, log_probability: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The codes [B, n] of a step, and their log-probabilities if asked for; −1 and NaN where logits are not finite.

    logits: [B, n, V]; for guidance [2·B, n, V], the conditional ones and then the unconditional.
    """
    conditional, unconditional = logits.chunk(2) if draws.guidance else (logits, None)
    found = ops.sample_tokens(
        conditional,
        seeds,
        unconditional=unconditional,
        guidance=draws.guidance[step] if draws.guidance else 1.0,
        temperature=draws.temperature,
        top_k=draws.top_k,
        top_p=draws.top_p,
        stream=ops.Purpose.CODE.stream(step),
        log_probability=log_probability,
    )
    return found if isinstance(found, tuple) else (found, None)

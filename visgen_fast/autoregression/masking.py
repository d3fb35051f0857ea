"""Masked models: what is hidden from them in training, and the order in which they draw, found while drawing.

A masked model sees some codes of an array, wherever they are, and predicts the others. So it knows all orders. Drawing
uses the one in which the codes of a step are those that it is surest of.

Chang et al., "MaskGIT: masked generative image transformer", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..nn.conditions import AnyCondition, Null
from .loop import Draws, draw
from .model import CodeModel
from .sampling import Callback, Guidance, checked_codes, guided

# The share of the codes that is hidden, from 1 at r = 0 to 0 at r = 1 (MaskGIT, section 3.3; TiTok).
SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda r: (r * (math.pi / 2)).cos(),
    "linear": lambda r: 1 - r,
    "arccos": lambda r: r.acos() * (2 / math.pi),
}


def masked_share(r: Tensor, schedule: str = "cosine") -> Tensor:
    """γ(r) of r in [0, 1]: the share of the codes that is hidden. ValueError for a schedule not in `SCHEDULES`."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    return SCHEDULES[schedule](r)


def mask_counts(unknown: Tensor, steps: int, schedule: str = "cosine") -> Tensor:
    """How many of `unknown` codes, int64 [B], are hidden again after each step: int64 [steps, B].

    It is max(1, min(left − 1, ⌊γ((t + 1)/steps)·unknown⌋)) after step t, of which `left` were hidden. After the last
    step a drawing hides none: what that would be counts for nothing.

    ValueError for fewer than 1 step, and as of `masked_share`.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    shares = masked_share(torch.arange(1, steps + 1, dtype=torch.float64) / steps, schedule)
    left, counts = unknown, []
    for share in shares.tolist():
        left = torch.minimum(left - 1, (unknown * share).long()).clamp_min(1)
        counts.append(left)
    return torch.stack(counts)


def random_mask(seeds: Tensor, share: Tensor, candidates: Tensor) -> Tensor:
    """Random codes to hide: ⌈share·N⌉ of each sample's N candidates, at least one.

    seeds: int64 [B]. share: [B], in [0, 1]. candidates: bool [B, length], the codes that may be hidden. Returns what is
    hidden, of the same shape.
    """
    count = (share.double() * candidates.sum(1)).ceil().long().clamp_min(1)
    level = torch.zeros(candidates.shape, device=candidates.device)
    stream = ops.Purpose.ORDER.stream()
    return ops.confident_mask(level, seeds, unknown=candidates, count=count, temperature=1.0, stream=stream)


def masked_loss(
    model: CodeModel,
    codes: Tensor,
    condition: AnyCondition,
    seeds: Tensor,
    *,
    schedule: str = "cosine",
    label_smoothing: float = 0.0,
    candidates: Tensor | None = None,
) -> Tensor:
    """The loss that trains a masked model: the mean cross-entropy of the codes hidden from it, nats [B].

    Args:
        model: a masked model.
        codes: int64 [B, *grid, Q].
        condition: labels int64 [B], or None for a model without classes.
        seeds: int64 [B], which decide how many codes are hidden and which.
        schedule: γ; γ(r) of the codes are hidden, with r uniform in (0, 1].
        label_smoothing: share of the target that all values have alike.
        candidates: bool, broadcastable to the codes: which may be hidden; the others are always given.

    Source: Chang et al., "MaskGIT", 2022, section 3.1.
    """
    flat = codes.flatten(1)
    hideable = torch.ones_like(codes, dtype=torch.bool) if candidates is None else candidates.expand(codes.shape)
    r = ops.uniform(seeds, (1,), stream=ops.Purpose.ORDER.stream(1), dtype=torch.float64)[:, 0]
    hidden = random_mask(seeds, masked_share(r, schedule), hideable.flatten(1))
    logits = model(torch.where(hidden, -1, flat).view(codes.shape), condition).flatten(1, -2)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
    losses = F.cross_entropy(wide, flat, reduction="none", label_smoothing=label_smoothing)
    return (losses * hidden).sum(1) / hidden.sum(1)


@torch.no_grad()
def sample_by_confidence(
    model: CodeModel,
    condition: AnyCondition,
    seeds: Tensor,
    *,
    steps: int,
    schedule: str = "cosine",
    choice_temperature: float = 4.5,
    null: Null = None,
    guidance: Guidance = 1.0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    known: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Draws the codes of a masked model in few steps: all hidden ones in each, of which it keeps the surest.

    A sample's codes depend on its seed and its condition alone, up to the rounding of the network. Step t draws codes
    from `Purpose.CODE.stream(t)`, and keeps those of highest log p + choice_temperature·(1 − (t + 1)/steps)·gumbel, by
    `Purpose.ORDER.stream(t)`; the others, as many as `mask_counts` says, are hidden again. The last step keeps all.

    Args:
        model: a masked model, in eval mode; its own order plays no part.
        steps: calls of the network, at least 1.
        schedule: of `mask_counts`. choice_temperature: at least 0, where the surest are kept without chance.
        condition, seeds, null, guidance, temperature, top_k, top_p, known, callback: as of `sample`.

    Returns:
        codes int64 [B, *grid, Q].

    Raises:
        ValueError: a model that is not masked, and as of `sample` and `mask_counts`.

    Source: Chang et al., "MaskGIT", 2022, section 3.2.
    """
    require_masked(model)
    if not 0 <= choice_temperature < math.inf:
        raise ValueError(f"choice_temperature must be at least 0 and finite, got {choice_temperature}")
    shape = model.order.shape
    scales, condition = guided(model, condition, null, guidance, steps)
    draws = Draws(scales, temperature, top_k, top_p)
    codes = seeds.new_full((len(seeds), math.prod(shape)), -1)
    if known is not None:
        codes = checked_codes(known, model, seeds).flatten(1)
    counts = mask_counts((codes < 0).sum(1), steps, schedule)
    for step in range(steps):
        unknown, seen = codes < 0, codes.unflatten(1, shape)
        logits = model(torch.cat((seen, seen)) if draws.guidance else seen, condition).flatten(1, -2)
        drawn, certainty = draw(draws, step, logits, seeds, log_probability=True)
        assert certainty is not None  # it was asked for
        codes = torch.where(unknown, drawn, codes)
        if step + 1 < steps:
            again = ops.confident_mask(
                certainty,
                seeds,
                unknown=unknown,
                count=counts[step],
                temperature=choice_temperature * (1 - (step + 1) / steps),
                stream=ops.Purpose.ORDER.stream(step),
            )
            codes = torch.where(again, -1, codes)
        if callback is not None:
            callback(step, codes.unflatten(1, shape))
    if bool((codes < 0).any()):
        raise ValueError("the model's logits must be finite, or −∞ for some codes; they are not")
    return codes.unflatten(1, shape)


def require_masked(model: CodeModel) -> None:
    """ValueError for a model with an order of its own."""
    if model.one_pass:
        raise ValueError(f"model must be a masked one, which finds its order, got {type(model).__name__} with its own")

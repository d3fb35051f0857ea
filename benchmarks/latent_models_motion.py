"""What is measured of drawn clips of moving digits: where the digit is, how it moves, and which one it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from visgen_fast.data.moving_digits import DIRECTIONS

# Of the digits' side, and what a step may take them past before it has surely met a wall: both in pixels.
_SIDE, _MARGIN = 8, 1.5
_BACKGROUND = 0.1  # of the range from black to white, below which there is no ink
_LEAST_STEPS = 3


def centres(clips: Tensor) -> Tensor:
    """The centres of the ink of clips [N, 1, T, H, W] in [−1, 1]: float64 [N, T, 2], rows and columns in pixels."""
    ink = ((clips[:, 0].double() + 1) / 2 - _BACKGROUND).clamp(0, 1)
    total = ink.sum((2, 3)).clamp_min(1e-9)
    places = [torch.arange(size) + 0.5 for size in ink.shape[2:]]
    rows, columns = (ink.sum(3) * places[0]).sum(2), (ink.sum(2) * places[1]).sum(2)
    return torch.stack((rows / total, columns / total), 2)


def motion(clips: Tensor, labels: Tensor) -> dict[str, float]:
    """How the digits of clips move, whose labels int64 [N] are those of `MovingDigits`.

    as_captioned: the share of clips that set out in the direction of the caption, nearest of the eight, before they
    meet a wall. variation: the mean over clips of the deviation of their steps away from walls, over these steps'
    mean; speed: that mean, in pixels. judged, varied: how many clips the two are of: those that set out away from
    walls, and those that make three steps there.
    """
    paths, side = centres(clips), clips.shape[-1]
    ways = F.normalize(torch.tensor(list(DIRECTIONS.values()), dtype=torch.float64))
    inside = ((paths > _SIDE / 2 + _MARGIN) & (paths < side - _SIDE / 2 - _MARGIN)).all(2)
    free, steps = inside[:, 1:] & inside[:, :-1], paths.diff(dim=1)
    leading = free.cumprod(1).bool()
    judged = leading[:, 0]
    went = (steps * leading[..., None]).sum(1)[judged]
    right = (went @ ways.T).argmax(1) == labels[judged] % len(DIRECTIONS)
    lengths, varied = steps.norm(dim=2), free.sum(1) >= _LEAST_STEPS
    of_clips = [some[away] for some, away in zip(lengths[varied], free[varied], strict=True)]
    spread = [float(some.std(correction=0) / some.mean().clamp_min(1e-9)) for some in of_clips]
    return {
        "as_captioned": _mean(right.double().tolist()),
        "variation": _mean(spread),
        "speed": _mean([float(some.mean()) for some in of_clips]),
        "judged": int(judged.sum()),
        "varied": int(varied.sum()),
    }


def digits(clips: Tensor, labels: Tensor, classify: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Whether the digits stay what they are: the share of clips in which the first and the last frame are of one class.

    classify: frames [N, 1, H, W] to classes int64 [N]. first, last: the share in which these are of the caption's.
    """
    first, last = (classify(clips[:, :, frame].clamp(-1, 1)) for frame in (0, -1))
    own = labels // len(DIRECTIONS)
    found = {"one_class": first == last, "first": first == own, "last": last == own}
    return {name: float(hits.double().mean()) for name, hits in found.items()}


def apart(clips: Tensor, others: Tensor, frame: int) -> Tensor:
    """How far the centres of one frame are from each other in two sets of clips, in pixels: float64 [N]."""
    return (centres(clips)[:, frame] - centres(others)[:, frame]).norm(dim=1)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")

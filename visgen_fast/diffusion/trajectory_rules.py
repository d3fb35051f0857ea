"""The rules by which a few-step model learns its flow map, as a table: which identity of the exact map it states.

identity                                     rules
X(t→s) = X(m→s)∘X(t→m)                       progressive, shortcut
X(t→s)(x_t) = X(m→s)(x_m) on one path        consistency, consistency_training
dX(x_t, t→s)/dt = 0 along the path           scm, mean_flow
∂X(x, t→s)/∂s = v(X, s)                      lagrangian
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Teller = Literal["teacher", "student", "data"]


class Span(NamedTuple):
    """Times of samples, [B]: a step leads from `t` to `s`, past `middle` where a rule has two steps."""

    t: Tensor
    middle: Tensor
    s: Tensor


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    span: (times, other times, shares in (0, 1], all [B], steps) → where steps begin and end. hops: who leads from t to
    the middle, and from there to s; "data" is the path of the sample itself. tangent: what else the student is
    differentiated in. damped: whether the error of the identity is taken as it is, or, False, in units of F. steps: of
    the grid, by default; 0 where there is none.

    Progressive: Salimans and Ho, 2022. Shortcut: Frans et al., "One step diffusion via shortcut models", 2024.
    Consistency, from a teacher and from data: Song et al., 2023; Song and Dhariwal, "Improved techniques for training
    consistency models", 2023. sCM: Lu and Song, "Simplifying, stabilizing and scaling continuous-time consistency
    models", 2024. MeanFlow: Geng et al., "Mean flows for one-step generative modeling", 2025. Lagrangian: Boffi,
    Albergo and Vanden-Eijnden, "How to build a consistency model: learning flow maps via self-distillation", 2025.
    """

    span: Callable[[Tensor, Tensor, Tensor, int], Span]
    hops: tuple[Teller, Teller] | None = None
    tangent: Literal["time", "destination"] | None = None
    damped: bool = False
    steps: int = 0

    @property
    def needs_teacher(self) -> bool:
        return self.hops is not None and "teacher" in self.hops


def _halves(t: Tensor, other: Tensor, share: Tensor, steps: int) -> Span:
    end = (t * steps).ceil().clamp_min(1) / steps
    return Span(end, (end - 0.5 / steps).clamp_min(0), (end - 1 / steps).clamp_min(0))


def _neighbours(t: Tensor, other: Tensor, share: Tensor, steps: int) -> Span:
    end = (t * steps).ceil().clamp_min(1) / steps
    return Span(end, (end - 1 / steps).clamp_min(0), torch.zeros_like(t))


def _powers_of_two(t: Tensor, other: Tensor, share: Tensor, steps: int) -> Span:
    """Steps of 1, ½, ¼ … and twice the grid's, each as often; their halves are on the grid."""
    size = 2 ** (1 - (share * (steps.bit_length() - 1)).ceil())
    end = (t / size).ceil().clamp_min(1) * size
    return Span(end, end - size / 2, end - size)


def _to_the_image(t: Tensor, other: Tensor, share: Tensor, steps: int) -> Span:
    return Span(t, t, torch.zeros_like(t))


def _pairs(t: Tensor, other: Tensor, share: Tensor, steps: int) -> Span:
    late, early = torch.maximum(t, other), torch.minimum(t, other)
    return Span(late, late, early)


RULES: dict[str, Rule] = {
    "progressive": Rule(_halves, hops=("teacher", "teacher"), steps=1),
    "shortcut": Rule(_powers_of_two, hops=("student", "student"), steps=128),
    "consistency": Rule(_neighbours, hops=("teacher", "student"), steps=32),
    "consistency_training": Rule(_neighbours, hops=("data", "student"), steps=32),
    "scm": Rule(_to_the_image, tangent="time", damped=True),
    "mean_flow": Rule(_pairs, tangent="time"),
    "lagrangian": Rule(_pairs, tangent="destination"),
}
"""The rules, by their names."""


# Penalties: functions of a sample's summed square S, [B], of D numbers. What is detached is a weight.
PENALTIES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "square": lambda total, count: total / count,
    # Song and Dhariwal, 2023, equation 8, of the whole sample.
    "pseudo_huber": lambda total, count: (total + 0.00054**2 * count).sqrt() - 0.00054 * count**0.5,
    # MeanFlow's.
    "adaptive": lambda total, count: total / (total + 0.01).detach(),
    # sCM's tangent of length below 1, g/(‖g‖ + 0.1): the same gradient.
    "normalized": lambda total, count: total / (total.sqrt() + 0.1).detach(),
}

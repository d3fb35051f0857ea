"""Guidance: how several outputs of networks become the one prediction that a sampler uses.

A guidance gives the outputs and their weights; `ops.solver_step` combines them where it reads them. It may give a limit
too, to which the denoised image is clamped before it is divided by it (dynamic thresholding).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen_fast import ops

from ..nn.conditions import AnyCondition, Null, concatenate, drop, null_like
from .plan import Plan


@dataclass(frozen=True)
class Call:
    """A network call of a plan: what the network gets, the row of the table, and the time at which its step began."""

    model: Callable[..., Tensor]
    x: Tensor
    t: Tensor
    labels: AnyCondition
    row: int
    step_began: float
    plan: Plan


@dataclass(frozen=True)
class Guided:
    """outputs: up to three [B, ...]. weights: [J], or [rows or 1, B or 1, J]; None is 1 for the first. limit: [B]."""

    outputs: tuple[Tensor, ...]
    weights: Tensor | None = None
    limit: Tensor | None = None


class Guidance(ABC):
    """A way of guiding. It holds nothing of a run: what a run must remember lies in what `begin` returns."""

    def begin(self) -> Guidance:
        """The guidance of one run."""
        return self

    @abstractmethod
    def evaluate(self, call: Call) -> Guided:
        """Calls the network, or the networks, once each."""


@dataclass(frozen=True)
class Unguided(Guidance):
    """The conditional network alone."""

    def evaluate(self, call: Call) -> Guided:
        return Guided((call.model(call.x, call.t, call.labels),))


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Ho and Salimans, "Classifier-free diffusion guidance", 2022: u + scale·(c − u), one call at batch 2B.

    scale: a number, or float [B]; 1 is the conditional network, in one call at batch B.
    null_label: the condition's null (`nn.conditions`), needed for any other scale.
    interval: (low, high) in t: guided only in steps that begin in it (Kynkäänniemi et al., "Applying guidance in a
        limited interval", 2024).
    rescale: φ: the guided output's standard deviation per sample, moved by this share to the conditional one's (Lin et
        al., "Common diffusion noise schedules and sample steps are flawed", 2023, section 3.4).
    """

    scale: float | Tensor = 1.0
    null_label: Null = None
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if self.null_label is None and not _is_one(self.scale):
            raise ValueError(f"null_label must be given for a guidance scale other than 1, got scale {self.scale}")
        if self.interval is not None and not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(f"interval must be (low, high) with 0 ≤ low ≤ high ≤ 1, got {self.interval}")

    @classmethod
    def from_weight(cls, weight: float | Tensor, null_label: Null, **options) -> ClassifierFree:  # noqa: ANN003
        """The same in the convention (1 + w)·c − w·u: scale = 1 + w."""
        return cls(1 + weight, null_label, **options)

    def evaluate(self, call: Call) -> Guided:
        inside = self.interval is None or self.interval[0] <= call.step_began <= self.interval[1]
        if _is_one(self.scale) or not inside:
            return Unguided().evaluate(call)
        conditional, unconditional = both_outputs(call, self.null_label)
        scale = torch.as_tensor(self.scale, dtype=torch.float64, device=call.x.device)
        weights = torch.stack((scale, 1 - scale), -1)
        if self.rescale:
            weights = self.rescaled(weights.expand(len(call.x), 2), (conditional, unconditional))
        return Guided((conditional, unconditional), weights if weights.dim() == 1 else weights[None])

    def rescaled(self, weights: Tensor, outputs: tuple[Tensor, ...]) -> Tensor:
        """The weights [B, 2] times φ·std(c)/std(guided) + 1 − φ."""
        products = ops.output_products(outputs)  # of (1, c, u)
        count = products[:, 0, 0]

        def spread(w: Tensor) -> Tensor:
            mean = (w * products[:, 0, 1:]).sum(1) / count
            square = torch.einsum("bi,bij,bj->b", w, products[:, 1:, 1:], w)
            return ((square - count * mean**2) / (count - 1)).clamp_min(0).sqrt()

        alone = torch.zeros_like(weights)
        alone[:, 0] = 1
        factor = self.rescale * spread(alone) / spread(weights) + 1 - self.rescale
        return weights * factor[:, None]


def both_outputs(call: Call, null_label: Null) -> tuple[Tensor, Tensor]:
    """The conditional and the unconditional output, from one network call at twice the batch."""
    both = concatenate((call.labels, null_like(call.labels, null_label)))
    conditional, unconditional = call.model(torch.cat((call.x, call.x)), torch.cat((call.t, call.t)), both).chunk(2)
    return conditional, unconditional


def drop_labels(labels: AnyCondition, seeds: Tensor, probability: float, null_label: Null) -> AnyCondition:
    """`labels`, or any condition, replaced by the null one with this probability, decided by a sample's seed alone.

    labels: a condition of B samples. seeds: int64 [B]. null_label: its null. ValueError unless 0 ≤ probability ≤ 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    drawn = ops.uniform(seeds, (1,), stream=ops.Purpose.LABEL_DROP.stream()).squeeze(1)
    return drop(labels, drawn <= probability, null_label)


def _is_one(scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) and scale == 1

"""Guidance: how several outputs of networks become the one prediction that a sampler uses.

A guidance gives the outputs and their weights; `ops.solver_step` combines them where it reads them. It may give a limit
too, to which the denoised image is clamped before it is divided by it, and it may change the plan's table. What does
not depend on the state is made once, when a run begins. Guidance whose weights depend on it is in `adaptive_guidance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition, Null, drop
from ..reference.solve import NEXT, WRITE_A, WRITE_B, U, V
from .guiding import (
    Guidance,
    Guided,
    Guiding,
    Interval,
    Network,
    Run,
    Scale,
    Unguided,
    as_numbers,
    check_interval,
    check_null,
    constant_weights,
    in_interval,
    is_number,
    itself,
    null_of,
    of_row,
    shares,
    weighted,
)
from .networks import check_callable
from .plan import Plan


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Ho and Salimans, "Classifier-free diffusion guidance", 2022: u + scale·(c − u), one call at batch 2B.

    scale: as of `Guidance`; 1 is the conditional network and 0 the unconditional one, in one call at batch B.
    null_label: the condition's null (`nn.conditions`), needed for any scale but 1.
    interval: (low, high) in t: guided only in steps that begin in it (Kynkäänniemi et al., "Applying guidance in a
        limited interval", 2024).
    rescale: φ: the guided output's standard deviation per sample, moved by this share to the conditional one's (Lin et
        al., "Common diffusion noise schedules and sample steps are flawed", 2023, section 3.4).
    batched: False calls the network twice at batch B, which needs less memory.
    """

    scale: Scale = 1.0
    null_label: Null = None
    interval: Interval | None = None
    rescale: float = 0.0
    batched: bool = True

    def __post_init__(self) -> None:
        check_null(self.scale, self.null_label)
        check_interval(self.interval)
        check.real(self.rescale, "rescale", 0, 1)

    @classmethod
    def from_weight(cls, weight: Scale, null_label: Null, **options: Any) -> ClassifierFree:
        """The same in the convention (1 + w)·c − w·u: scale = 1 + w, of a weight as scales are."""
        if callable(weight):
            return cls(lambda time: 1 + weight(time), null_label, **options)
        number = weight if isinstance(weight, int | float) else as_numbers(weight, name="weight")
        return cls(1 + number, null_label, **options)

    def begin(self, run: Run) -> Guiding:
        if is_number(self.scale, 1):
            return Unguided().begin(run)
        if not self.rescale:
            told = itself, null_of(self.null_label)
            return weighted(run, told, shares, self.interval, self.batched, self.scale)
        outputs = run.with_and_without(self.null_label, self.batched)
        pairs = torch.stack(shares(run.numbers(self.scale)), -1).expand(-1, run.batch, 2)

        def rescaled(x: Tensor, t: Tensor, row: int) -> Guided:
            both, pair = outputs(x, t), of_row(pairs, row)
            return Guided(both, (pair * self.factor(ops.output_products(both), pair))[None])

        return in_interval(run, self.interval, rescaled, self.scale, alike=len(pairs) == 1)

    def factor(self, products: Tensor, weights: Tensor) -> Tensor:
        """φ·std(c)/std(guided) + 1 − φ, [B, 1], from the products of (1, c, u); 1 where the guided output is flat."""
        sums = products[:, :1, 1:]
        spread = products[:, 1:, 1:] - sums.mT * sums / products[:, :1, :1]
        guided = (weights[:, None] @ spread @ weights[:, :, None])[:, 0]
        ratio = torch.where(guided > 0, spread[:, 0, :1] / guided, 1)
        return self.rescale * ratio.clamp_min(0).sqrt() + 1 - self.rescale


@dataclass(frozen=True)
class PlusPlus(Guidance):
    """Chung et al., "CFG++: manifold-constrained classifier-free guidance", 2024, for every sampler.

    The denoised image is x̂ = x̂_u + scale·(x̂_c − x̂_u), and the noise that is kept is the unconditional network's. So the
    sampler's formulas stand with x_t replaced by x_t + α·(x̂ − x̂_u), which a change of the table brings about.

    scale: as of `Guidance`, in [0, 1]. null_label, interval, batched: as of `ClassifierFree`.
    """

    scale: Scale
    null_label: Null
    interval: Interval | None = None
    batched: bool = True

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not callable(self.scale):
            self.check(as_numbers(self.scale))

    def check(self, scale: Tensor) -> None:
        if not bool(((scale >= 0) & (scale <= 1)).all()):
            raise ValueError(
                f"the scale of CFG++ must lie in [0, 1], got {self.scale if scale.dim() == 0 else scale.tolist()}"
            )

    def begin(self, run: Run) -> Guiding:
        scale = run.numbers(self.scale)
        if callable(self.scale):
            self.check(scale)
        outputs = run.with_and_without(self.null_label, self.batched)
        plain = constant_weights(run, outputs, torch.stack(shares(scale), -1), self.interval)
        return Guiding(self.table(run).to(run.device), plain.evaluate, plain.kind)

    def table(self, run: Run) -> Tensor:
        """The plan's table with x replaced by x + a·(x̂ − u·x − v·o) in its rows within the interval; a is α as read."""
        table = run.plan.table.clone()
        signal = signal_as_read(run.plan) * torch.tensor(run.rows_within(self.interval), dtype=torch.float64)
        for first in (NEXT, WRITE_A, WRITE_B):
            moved = signal * table[:, first]
            table[:, first + 1] += moved
            table[:, first + 2] -= moved * table[:, V]
            table[:, first] -= moved * table[:, U]
        return table


@dataclass(frozen=True)
class Auto(Guidance):
    """Karras et al., "Guiding a diffusion model with a bad version of itself", 2024: guide + scale·(model − guide).

    scale: as of `Guidance`; 1 is the model alone. guide: a network called as the model is, with the same
    condition; a smaller or less trained one. interval: as of `ClassifierFree`.
    """

    scale: Scale
    guide: Network
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_callable(self.guide, "guide", "(x, t, labels)")
        check_interval(self.interval)

    def begin(self, run: Run) -> Guiding:
        if is_number(self.scale, 1):
            return Unguided().begin(run)
        model, guide = run.unguided(), run.outputs([itself], network=self.guide)
        weights = torch.stack(shares(run.numbers(self.scale)), -1)
        return constant_weights(run, lambda x, t: model(x, t) + guide(x, t), weights, self.interval, self.scale)


@dataclass(frozen=True)
class TwoConditions(Guidance):
    """Brooks et al., "InstructPix2Pix", 2023, equation 3: u + first_scale·(f − u) + scale·(c − f).

    f is the output for the first of two conditions, c that for both; one call at batch 3B, less where a weight is 0.

    scale, first_scale: as of `Guidance`. null_label: the condition's null. first: a function from the condition to
    the one of which the second part is replaced by its null. interval, batched: as of `ClassifierFree`.
    """

    scale: Scale
    first_scale: Scale
    null_label: Null
    first: Callable[[AnyCondition], AnyCondition]
    interval: Interval | None = None
    batched: bool = True

    def __post_init__(self) -> None:
        check_callable(self.first, "first", "(condition)")
        check_interval(self.interval)

    def begin(self, run: Run) -> Guiding:
        told = itself, self.first, null_of(self.null_label)
        return weighted(run, told, self.weights, self.interval, self.batched, self.scale, self.first_scale)

    @staticmethod
    def weights(scale: Any, first_scale: Any) -> tuple[Any, ...]:
        """Of the outputs for both conditions, for the first, and for none."""
        return scale, first_scale - scale, 1 - first_scale


@dataclass(frozen=True)
class Classifier(Guidance):
    """Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", 2021: ε̂ − scale·σ·∇ log p(y | x_t).

    scale: as of `Guidance`; 0 asks no classifier. log_probability: (x_t, t [B], condition) → [B], differentiable in
    x_t, which it is given without the prediction's input scale. interval: as of `ClassifierFree`.
    """

    scale: Scale
    log_probability: Callable[[Tensor, Tensor, AnyCondition], Tensor]
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_callable(self.log_probability, "log_probability", "(x_t, t, condition)")
        check_interval(self.interval)

    def begin(self, run: Run) -> Guiding:
        if is_number(self.scale, 0):
            return Unguided().begin(run)
        model, weights, scales = run.unguided(), self.weights(run), input_scales(run.plan).tolist()

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            with torch.enable_grad():
                x_t = (x.detach() / scales[row]).requires_grad_()
                value = self.log_probability(x_t.to(run.dtype), t, run.labels)
                self.check(value, run.batch)
                (gradient,) = torch.autograd.grad(value.sum(), x_t)
            return Guided((*model(x, t), gradient), weights)

        return in_interval(run, self.interval, evaluate, self.scale, alone=0)

    def check(self, value: Any, batch: int) -> None:
        fits = isinstance(value, Tensor) and value.shape == (batch,) and value.requires_grad
        if not fits:
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"log_probability must return [{batch}] that is differentiable in x_t, got {found}")

    def weights(self, run: Run) -> Tensor:
        """[rows, B or 1, 2]: the gradient moves x̂ by scale·σ²/α, hence the output by that over the row's v.

        Where nothing of the image is left, a classifier says nothing, and where no noise is, there is nothing to move.
        """
        plan = run.plan
        alpha, sigma, v = plan.schedule.alpha(plan.times), plan.schedule.sigma(plan.times), plan.table[:, V]
        silent = (alpha == 0) | (v == 0)
        moved = torch.where(silent, 0, sigma**2 / torch.where(silent, 1, alpha * v)).to(run.device)
        moved = moved[:, None] * run.numbers(self.scale)
        return torch.stack((torch.ones_like(moved), moved), -1)


def input_scales(plan: Plan) -> Tensor:
    """What x_t is multiplied by before the network reads it, float64 [rows]."""
    alpha, sigma = plan.schedule.alpha(plan.times), plan.schedule.sigma(plan.times)
    scale = plan.prediction.input_scale
    return torch.ones_like(alpha) if scale is None else scale(alpha, sigma)


def signal_as_read(plan: Plan) -> Tensor:
    """α of each row, float64 [rows], of the state as the network reads it."""
    return plan.schedule.alpha(plan.times) * input_scales(plan)


def drop_labels(labels: AnyCondition, seeds: Tensor, probability: float, null_label: Null) -> AnyCondition:
    """`labels`, or any condition, replaced by the null one with this probability, decided by a sample's seed alone.

    labels: a condition of B samples. seeds: int64 [B]. null_label: its null. ValueError unless 0 ≤ probability ≤ 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    drawn = ops.uniform(seeds, (1,), stream=ops.Purpose.LABEL_DROP.stream()).squeeze(1)
    return drop(labels, drawn <= probability, null_label)

"""Guidance: how several outputs of networks become the one prediction that a sampler uses.

A guidance gives the outputs and their weights; `ops.solver_step` combines them where it reads them. It may give a limit
too, to which the denoised image is clamped before it is divided by it, and it may change the plan's table. What does
not depend on the state is made once, when a run begins. Guidance whose weights depend on it is in `adaptive_guidance`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visgen_fast import ops

from ..nn.conditions import AnyCondition, Null, concatenate, drop, null_like
from ..reference.solve import NEXT, WRITE_A, WRITE_B, U, V
from .plan import Plan

Network = Callable[..., Tensor]
Outputs = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Interval = tuple[float, float]


class Guided(NamedTuple):
    """outputs: up to three [B, ...]. weights: [J], or [rows or 1, B or 1, J]; None is 1 for the first. limit: [B]."""

    outputs: tuple[Tensor, ...]
    weights: Tensor | None = None
    limit: Tensor | None = None


@dataclass(frozen=True)
class Run:
    """What a guidance is told when a run begins: the network model(x, t [B], condition), its plan and its condition.

    batch: of the state. dtype: of what the network is given. variances: what networks said of the noise's variance
    since the list was last emptied, the conditional network first.
    """

    model: Network
    plan: Plan
    labels: AnyCondition
    batch: int
    dtype: torch.dtype
    device: torch.device
    variances: list[Tensor] = field(default_factory=list)

    def call(self, network: Network, x: Tensor, t: Tensor, condition: AnyCondition) -> Tensor:
        """The network's output for states x [n·B, ...] at time t []: of twice the channels, the first half.

        The other half is the variance that a network learned beside its prediction (Nichol and Dhariwal, 2021).
        """
        output = network(x.to(self.dtype), t.expand(len(x)), condition)
        if x.dim() > 1 and output.dim() == x.dim() and output.shape[1] == 2 * x.shape[1]:
            output, variance = output.chunk(2, 1)
            self.variances.append(variance[: self.batch])
        return output

    def rows_within(self, interval: Interval | None) -> tuple[bool, ...]:
        """For each row, whether its step begins in the interval: all stages of a step are in it, or none."""
        if interval is None:
            return (True,) * self.plan.calls
        began = (self.plan.ends[step].time for step in self.plan.step_of_row)
        return tuple(interval[0] <= time <= interval[1] for time in began)

    def outputs(self, conditions: Sequence[AnyCondition], *, batched: bool = True) -> Outputs:
        """A function (state, time []) → the network's output for each condition, in one call or in as many."""
        count = len(conditions)
        if not batched or count == 1:
            return lambda x, t: tuple(self.call(self.model, x, t, one) for one in conditions)
        together = concatenate(conditions)

        def outputs(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
            return self.call(self.model, torch.cat([x.to(self.dtype)] * count), t, together).chunk(count)

        return outputs

    def unguided(self) -> Outputs:
        """The conditional network alone."""
        return self.outputs([self.labels])

    def with_and_without(self, null_label: Null, batched: bool) -> Outputs:
        """The conditional and the unconditional output."""
        return self.outputs([self.labels, null_like(self.labels, null_label)], batched=batched)

    def numbers(self, scale: float | Tensor) -> Tensor:
        """A scale as float64 [] or [B]."""
        numbers = torch.as_tensor(scale, dtype=torch.float64, device=self.device)
        if numbers.shape not in ((), (self.batch,)):
            raise ValueError(f"scale must be a number or [{self.batch}], got a tensor of shape {list(numbers.shape)}")
        return numbers


@dataclass(frozen=True)
class Guiding:
    """A guidance in a run. table: the plan's [rows, 32], or what the guidance makes of it, on the run's device.

    evaluate: (state [B, ...], time [], row) → Guided. It may remember what it has seen, so it serves one run.
    """

    table: Tensor
    evaluate: Callable[[Tensor, Tensor, int], Guided]


class Guidance(ABC):
    """A way of guiding. It holds nothing of a run: what a run must remember lies in what `begin` returns."""

    @abstractmethod
    def begin(self, run: Run) -> Guiding:
        """The guidance of one run."""


@dataclass(frozen=True)
class Unguided(Guidance):
    """The conditional network alone."""

    def begin(self, run: Run) -> Guiding:
        outputs = run.unguided()
        return Guiding(run.plan.table.to(run.device), lambda x, t, row: Guided(outputs(x, t)))


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Ho and Salimans, "Classifier-free diffusion guidance", 2022: u + scale·(c − u), one call at batch 2B.

    scale: a number, or float [B]; 1 is the conditional network and 0 the unconditional one, in one call at batch B.
    null_label: the condition's null (`nn.conditions`), needed for any scale but 1.
    interval: (low, high) in t: guided only in steps that begin in it (Kynkäänniemi et al., "Applying guidance in a
        limited interval", 2024).
    rescale: φ: the guided output's standard deviation per sample, moved by this share to the conditional one's (Lin et
        al., "Common diffusion noise schedules and sample steps are flawed", 2023, section 3.4).
    batched: False calls the network twice at batch B, which needs less memory.
    """

    scale: float | Tensor = 1.0
    null_label: Null = None
    interval: Interval | None = None
    rescale: float = 0.0
    batched: bool = True

    def __post_init__(self) -> None:
        check_null(self.scale, self.null_label)
        check_interval(self.interval)
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must lie in [0, 1], got {self.rescale}")

    @classmethod
    def from_weight(cls, weight: float | Tensor, null_label: Null, **options: Any) -> ClassifierFree:
        """The same in the convention (1 + w)·c − w·u: scale = 1 + w."""
        return cls(1 + weight, null_label, **options)

    def begin(self, run: Run) -> Guiding:
        if is_number(self.scale, 1):
            return Unguided().begin(run)
        if is_number(self.scale, 0) and not self.rescale:
            outputs = run.outputs([null_like(run.labels, self.null_label)])
            return constant_weights(run, outputs, None, self.interval)
        outputs = run.with_and_without(self.null_label, self.batched)
        scale = run.numbers(self.scale)
        if not self.rescale:
            return constant_weights(run, outputs, [scale, 1 - scale], self.interval)
        pair = torch.stack((scale, 1 - scale), -1).expand(run.batch, 2)

        def rescaled(x: Tensor, t: Tensor) -> Guided:
            both = outputs(x, t)
            return Guided(both, (pair * self.factor(ops.output_products(both), pair))[None])

        return in_interval(run, self.interval, lambda x, t, row: rescaled(x, t))

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

    scale: a number, or float [B], in [0, 1]. null_label, interval, batched: as of `ClassifierFree`.
    """

    scale: float | Tensor
    null_label: Null
    interval: Interval | None = None
    batched: bool = True

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if not bool(((torch.as_tensor(self.scale) >= 0) & (torch.as_tensor(self.scale) <= 1)).all()):
            raise ValueError(f"the scale of CFG++ must lie in [0, 1], got {self.scale}")

    def begin(self, run: Run) -> Guiding:
        scale = run.numbers(self.scale)
        outputs = run.with_and_without(self.null_label, self.batched)
        plain = constant_weights(run, outputs, [scale, 1 - scale], self.interval)
        return Guiding(self.table(run).to(run.device), plain.evaluate)

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

    scale: a number, or float [B]; 1 is the model alone. guide: a network called as the model is, with the same
    condition; a smaller or less trained one. interval: as of `ClassifierFree`.
    """

    scale: float | Tensor
    guide: Network
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def begin(self, run: Run) -> Guiding:
        if is_number(self.scale, 1):
            return Unguided().begin(run)
        scale, model = run.numbers(self.scale), run.unguided()

        def outputs(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
            return *model(x, t), run.call(self.guide, x, t, run.labels)

        return constant_weights(run, outputs, [scale, 1 - scale], self.interval)


@dataclass(frozen=True)
class TwoConditions(Guidance):
    """Brooks et al., "InstructPix2Pix", 2023, equation 3: u + first_scale·(f − u) + scale·(c − f).

    f is the output for the first of two conditions, c that for both; one call at batch 3B.

    scale, first_scale: numbers, or float [B]. null_label: the condition's null. first: a function from the condition to
    the one of which the second part is replaced by its null. interval, batched: as of `ClassifierFree`.
    """

    scale: float | Tensor
    first_scale: float | Tensor
    null_label: Null
    first: Callable[[AnyCondition], AnyCondition]
    interval: Interval | None = None
    batched: bool = True

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def begin(self, run: Run) -> Guiding:
        conditions = [run.labels, self.first(run.labels), null_like(run.labels, self.null_label)]
        scale, first_scale = run.numbers(self.scale), run.numbers(self.first_scale)
        weights = [scale, first_scale - scale, 1 - first_scale]
        return constant_weights(run, run.outputs(conditions, batched=self.batched), weights, self.interval)


@dataclass(frozen=True)
class Classifier(Guidance):
    """Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", 2021: ε̂ − scale·σ·∇ log p(y | x_t).

    scale: a number, or float [B]. log_probability: (x_t, t [B], condition) → [B], differentiable in x_t, which it is
    given without the prediction's input scale. interval: as of `ClassifierFree`.
    """

    scale: float | Tensor
    log_probability: Callable[[Tensor, Tensor, AnyCondition], Tensor]
    interval: Interval | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def begin(self, run: Run) -> Guiding:
        model, weights, scales = run.unguided(), self.weights(run), input_scales(run.plan).tolist()

        def evaluate(x: Tensor, t: Tensor, row: int) -> Guided:
            with torch.enable_grad():
                x_t = (x.detach() / scales[row]).requires_grad_()
                value = self.log_probability(x_t.to(run.dtype), t.expand(run.batch), run.labels)
                (gradient,) = torch.autograd.grad(value.sum(), x_t)
            return Guided((*model(x, t), gradient), weights)

        return in_interval(run, self.interval, evaluate)

    def weights(self, run: Run) -> Tensor:
        """[rows, B or 1, 2]: the gradient moves x̂ by scale·σ²/α, hence the output by that over the row's v.

        Where nothing of the image is left, a classifier says nothing, and where no noise is, there is nothing to move.
        """
        plan = run.plan
        alpha, sigma, v = plan.schedule.alpha(plan.times), plan.schedule.sigma(plan.times), plan.table[:, V]
        silent = (alpha == 0) | (v == 0)
        moved = torch.where(silent, 0, sigma**2 / torch.where(silent, 1, alpha * v)).to(run.device)
        moved = moved[:, None] * run.numbers(self.scale).reshape(1, -1)
        return torch.stack((torch.ones_like(moved), moved), -1)


def constant_weights(
    run: Run, outputs: Outputs, weights: Sequence[Tensor] | None, interval: Interval | None
) -> Guiding:
    """The outputs with weights, each [] or [B], that are the same in all steps; the conditional one elsewhere."""
    ready = None
    if weights is not None:
        ready = torch.stack(torch.broadcast_tensors(*weights), -1).reshape(1, -1, len(weights))
    return in_interval(run, interval, lambda x, t, row: Guided(outputs(x, t), ready))


def in_interval(run: Run, interval: Interval | None, evaluate: Callable[[Tensor, Tensor, int], Guided]) -> Guiding:
    """`evaluate` in steps that begin in the interval, the conditional network alone in all others."""
    table = run.plan.table.to(run.device)
    if interval is None:
        return Guiding(table, evaluate)
    inside, alone = run.rows_within(interval), run.unguided()
    return Guiding(table, lambda x, t, row: evaluate(x, t, row) if inside[row] else Guided(alone(x, t)))


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


def is_number(scale: float | Tensor, value: float) -> bool:
    return not isinstance(scale, Tensor) and scale == value


def check_null(scale: float | Tensor, null_label: Null) -> None:
    if null_label is None and not is_number(scale, 1):
        raise ValueError(f"null_label must be given for a guidance scale other than 1, got scale {scale}")


def check_interval(interval: Interval | None) -> None:
    if interval is not None and not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"interval must be (low, high) with 0 ≤ low ≤ high ≤ 1, got {interval}")

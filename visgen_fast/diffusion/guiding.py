"""What a guidance is told when a run begins, what it gives for each row, and what guidances share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _check as check
from ..nn.conditions import AnyCondition, Condition, Null, concatenate, null_like
from .networks import parted
from .plan import Plan

Network = Callable[..., Tensor]
Outputs = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
Interval = tuple[float, float]
Scale = float | Tensor | Callable[[float], float | Tensor]
Told = Callable[[AnyCondition], AnyCondition]


class Guided(NamedTuple):
    """outputs: up to three [B, ...]. weights: [J], or [rows or 1, B or 1, J]; None is 1 for the first. limit: [B]."""

    outputs: tuple[Tensor, ...]
    weights: Tensor | None = None
    limit: Tensor | None = None


@dataclass(frozen=True)
class Run:
    """What a guidance is told when a run begins: the network model(x, t [B], condition), its plan and its condition.

    batch: of the state. dtype: of what the network is given. variances: what networks said of the noise's variance
    since the list was last emptied, the conditional network first. copies: what brings a run up to other labels of the
    same kind, each a function of them.
    """

    model: Network
    plan: Plan
    labels: AnyCondition
    batch: int
    dtype: torch.dtype
    device: torch.device
    variances: list[Tensor] = field(default_factory=list)
    copies: list[Callable[[AnyCondition], None]] = field(default_factory=list)

    @property
    def began(self) -> list[float]:
        """The time at which each row's step begins: what is decided by it is the same for all stages of a step."""
        return [self.plan.ends[step].time for step in self.plan.step_of_row]

    def rows_within(self, interval: Interval | None) -> tuple[bool, ...]:
        """For each row, whether its step begins in the interval."""
        if interval is None:
            return (True,) * self.plan.calls
        return tuple(interval[0] <= time <= interval[1] for time in self.began)

    def outputs(self, told: Sequence[Told], *, batched: bool = True, network: Network | None = None) -> Outputs:
        """A function (state, times [B]) → the network's output for each condition, in one call or in as many.

        told: functions from the run's condition to what the network is told. network: the run's own by default.
        """
        ask = self.model if network is None else network
        conditions = [one(self.labels) for one in told]
        count = len(conditions)
        if not batched or count == 1:
            for into, one in zip(conditions, told, strict=True):
                self._follow(into, one)

            def in_turn(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
                read = self._read(x)
                return tuple([self._prediction(ask(read, t, one), read) for one in conditions])

            return in_turn
        together = concatenate(conditions)
        self._follow(together, lambda labels: concatenate([one(labels) for one in told]))

        def at_once(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
            read = torch.cat([self._read(x)] * count)
            return self._prediction(ask(read, torch.cat([t] * count), together), read).chunk(count)

        return at_once

    def _read(self, x: Tensor) -> Tensor:
        """The state in the type of what the network is given."""
        return x if x.dtype == self.dtype else x.to(self.dtype)  # a conversion that changes nothing costs as a sum does

    def _prediction(self, output: Tensor, x: Tensor) -> Tensor:
        """What a network predicts for x; what it says of the variance goes to `variances`."""
        if getattr(output, "shape", None) == x.shape:  # costs a small step less than all that `parted` looks at
            return output
        prediction, variance = parted(output, x)
        if variance is not None:
            self.variances.append(variance[: self.batch])
        return prediction

    def _follow(self, into: AnyCondition, made: Told) -> None:
        """Has `copies` bring `into` up to what is made of other labels."""
        if into is not self.labels:
            self.copies.append(lambda labels: copy_condition(into, made(labels)))

    def unguided(self) -> Outputs:
        """The conditional network alone."""
        return self.outputs([itself])

    def with_and_without(self, null_label: Null, batched: bool) -> Outputs:
        """The conditional and the unconditional output."""
        return self.outputs([itself, null_of(null_label)], batched=batched)

    def numbers(self, scale: Scale) -> Tensor:
        """A scale as float64 [rows or 1, B or 1]."""
        if callable(scale):
            by_time = {time: self.numbers(scale(time)).expand(1, self.batch) for time in set(self.began)}
            return torch.cat([by_time[time] for time in self.began])
        numbers = as_numbers(scale, self.device)
        if numbers.shape not in ((), (self.batch,)):
            raise ValueError(f"scale must be a number or [{self.batch}], got a tensor of shape {list(numbers.shape)}")
        return numbers.reshape(1, -1)


@dataclass(frozen=True)
class Guiding:
    """A guidance in a run. table: the plan's [rows, 32], or what the guidance makes of it, on the run's device.

    evaluate: (state [B, ...], times [B], row) → Guided. It may remember what it has seen, so it serves one run.
    kind: rows of one kind are evaluated alike, on the device, from the state and the time alone; None where that is not
    so. `graphs` captures a row of each kind.
    """

    table: Tensor
    evaluate: Callable[[Tensor, Tensor, int], Guided]
    kind: Callable[[int], Hashable] | None = None


class Guidance(ABC):
    """A way of guiding.

    A scale is a number; float [B], one for each sample; or a function from the time at which a step begins to either.
    A guidance holds nothing of a run: what a run must remember lies in what `begin` returns.
    """

    @abstractmethod
    def begin(self, run: Run) -> Guiding:
        """The guidance of one run."""


@dataclass(frozen=True)
class Unguided(Guidance):
    """The conditional network alone."""

    def begin(self, run: Run) -> Guiding:
        outputs = run.unguided()
        return Guiding(run.plan.table.to(run.device), lambda x, t, row: Guided(outputs(x, t)), lambda row: None)


def weighted(
    run: Run,
    told: Sequence[Told],
    weigh: Callable[..., Sequence[Any]],
    interval: Interval | None,
    batched: bool,
    *scales: Scale,
) -> Guiding:
    """The network's outputs for some conditions, with the weights that `weigh` makes of the scales.

    Where the scales are numbers, conditions whose weight is 0 are not computed.
    """
    if all(isinstance(scale, int | float) for scale in scales):
        for scale in scales:
            check.real(scale, "scale")
        used = [(one, weight) for one, weight in zip(told, weigh(*scales), strict=True) if weight != 0]
        told = [one for one, _ in used]
        weights = torch.tensor([[[weight for _, weight in used]]], dtype=torch.float64, device=run.device)
    else:
        weights = torch.stack(torch.broadcast_tensors(*weigh(*map(run.numbers, scales))), -1)
    # Of two scales, one alone never says that the conditional output is all.
    scale = scales[0] if len(scales) == 1 else 0.0
    return constant_weights(run, run.outputs(told, batched=batched), weights, interval, scale)


def constant_weights(
    run: Run, outputs: Outputs, weights: Tensor, interval: Interval | None, scale: Scale = 0.0
) -> Guiding:
    """The outputs with weights [rows or 1, B or 1, J] in steps that begin in the interval and whose scale is not 1.

    The conditional network alone in all others.
    """
    return in_interval(run, interval, lambda x, t, row: Guided(outputs(x, t), weights), scale, alike=True)


def in_interval(
    run: Run,
    interval: Interval | None,
    evaluate: Callable[[Tensor, Tensor, int], Guided],
    scale: Scale = 0.0,
    alone: float = 1,
    alike: bool = False,
) -> Guiding:
    """`evaluate` in steps that begin in the interval, the conditional network alone in all others.

    It is alone too where a scale that is a function of time has the value `alone`. alike: whether `evaluate` does the
    same in all rows (`Guiding.kind`).
    """
    table, guided = run.plan.table.to(run.device), list(run.rows_within(interval))
    if callable(scale):
        guided = [yes and not is_number(scale(time), alone) for yes, time in zip(guided, run.began, strict=True)]
    kind = guided.__getitem__ if alike else None
    if all(guided):
        return Guiding(table, evaluate, kind)
    unguided = run.unguided()
    return Guiding(table, lambda x, t, row: evaluate(x, t, row) if guided[row] else Guided(unguided(x, t)), kind)


def of_row(values: Tensor, row: int) -> Tensor:
    """What a row has of values [rows or 1, …]."""
    return values[row if len(values) > 1 else 0]


def copy_condition(into: AnyCondition, source: AnyCondition) -> None:
    """Copies a condition's tensors into those of another; expanded ones, nulls that no label changes, are left."""
    if isinstance(into, Condition) and isinstance(source, Condition):
        for name, part in into.parts().items():
            copy_condition(part, source.parts()[name])
    elif isinstance(into, Tensor) and isinstance(source, Tensor):
        if not any(stride == 0 and size > 1 for stride, size in zip(into.stride(), into.shape, strict=True)):
            into.copy_(source)


def itself(condition: AnyCondition) -> AnyCondition:
    """The condition as it is."""
    return condition


def null_of(null_label: Null) -> Told:
    """A function from a condition to its null."""
    return lambda condition: null_like(condition, null_label)


def is_number(scale: Scale, value: float) -> bool:
    return isinstance(scale, int | float) and scale == value


def shares(scale: Any) -> tuple[Any, Any]:
    """The weights of two outputs, other + scale·(one − other)."""
    return scale, 1 - scale


def as_numbers(scale: Any, device: torch.device | str = "cpu", name: str = "scale") -> Tensor:
    """A scale that is no function as float64; TypeError, or ValueError for a number that is not finite."""
    if isinstance(scale, int | float):
        check.real(scale, name)
    try:
        return torch.as_tensor(scale, dtype=torch.float64, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or numbers [B], got {type(scale).__name__}") from None


def check_null(scale: Scale, null_label: Null) -> None:
    if null_label is None and not is_number(scale, 1):
        raise ValueError(f"null_label must be given for a guidance scale other than 1, got scale {scale}")


def check_interval(interval: Interval | None) -> None:
    if interval is not None:
        check.interval(interval, "interval")


def check_guidance(guidance: Any) -> None:
    if not isinstance(guidance, Guidance):
        raise ValueError(f"guidance must be one, for example ClassifierFree(3.0, null_label), got {guidance!r:.80}")

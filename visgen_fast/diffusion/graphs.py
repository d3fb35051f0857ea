"""Sampling by CUDA graphs: each kind of step is captured once, network included, and replayed for all others like it.

A captured step works on memory that stays where it is: the state, slots, seeds and condition of a call are copied in,
and the number of the row is counted up on the device, where time, coefficients, weights and noise are looked up by it.
Steps are of one kind if their guidance is computed alike. The first of a kind runs eagerly, which warms the network up.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.conditions import AnyCondition, Condition, apply_to_parts
from .guiding import Guidance, Guided, Run, copy_condition
from .plan import Plan
from .steps import Steps, Watch

MOST_KEPT = 4
_kept: OrderedDict[Hashable, GraphedSteps] = OrderedDict()
_lock, _capturing = threading.Lock(), threading.Lock()


def steps(run: Run, guidance: Guidance, shape: tuple[int, ...], dtype: torch.dtype) -> Steps:
    """The steps of a run by graphs, those of an earlier call like it where there was one; eager ones, with a warning.

    Calls are alike that have the same shape, types, numbers in the plan, guidance, model, and addresses of its weights.
    The last `MOST_KEPT` kinds of call are kept, with their models, until `release_graphs`.
    """
    eager = Steps(run, guidance)
    reason = _reason(eager)
    if reason is not None:
        warnings.warn(f"{reason}: sampling runs eagerly", stacklevel=4)
        return eager
    key = _key(run, guidance, shape, dtype)
    with _lock:
        if key not in _kept:
            _kept[key] = GraphedSteps(run, guidance)
        _kept.move_to_end(key)
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
        return _kept[key]


def release_graphs() -> None:
    """Lets go of all graphs that `sample` captured, and of the models and memory that they hold."""
    with _lock:
        _kept.clear()


class GraphedSteps(Steps):
    """Steps that replay graphs. They serve one call at a time: another thread's waits."""

    def __init__(self, run: Run, guidance: Guidance) -> None:
        labels = apply_to_parts(run.labels, torch.clone)
        super().__init__(replace(run, labels=labels, variances=[], copies=[]), guidance)
        self.graphs: dict[Hashable, Captured] = {}
        self.failed = False
        self._seen: set[Hashable] = set()
        self._busy = threading.Lock()
        self._pool: Any = None
        self.number: Tensor | None = None

    @contextmanager
    def on(self, x: Tensor, seeds: Tensor, labels: AnyCondition) -> Iterator[None]:
        with self._busy:
            if self.number is None:
                self.x, self.seeds = x.clone(), seeds.clone()
                self.slots = tuple(torch.empty_like(x) for _ in range(self.run.plan.slots))
                self.times_on_device = self.run.plan.times.to(x.device, x.dtype)
                self.number = torch.zeros(1, dtype=torch.int64, device=x.device)
            self.x.copy_(x)
            self.seeds.copy_(seeds)
            self.number.zero_()
            copy_condition(self.run.labels, labels)
            for copy in self.run.copies:
                copy(labels)
            yield

    def end(self) -> Tensor:
        return self.x.clone()

    def take(self, row: int, watch: Watch | None) -> None:
        assert self.guiding.kind is not None
        kind = self.guiding.kind(row)
        before = None if watch is None else self.x.clone()
        if kind in self._seen and kind not in self.graphs and not self.failed:
            self._capture(kind, row)
        self._seen.add(kind)
        guided = self.graphs[kind].replay() if kind in self.graphs else self.whole(row)
        if watch is not None and before is not None:
            watch(before, guided)

    def whole(self, row: int) -> Guided:
        """All that a row does. Its number is read on the device; `row` is any one of its kind."""
        assert self.number is not None
        guided = self.guided(self.times_on_device.index_select(0, self.number).expand(len(self.x)), row)
        self.step(self.number.view(()), guided)
        self.number.add_(1)
        return guided

    def _capture(self, kind: Hashable, row: int) -> None:
        try:
            with _capturing:
                self.graphs[kind] = Captured(lambda: self.whole(row), self._pool)
            self._pool = self.graphs[kind].pool
        except (RuntimeError, ValueError) as error:
            self.failed = True
            reason = str(error).partition("\n")[0]
            warnings.warn(f"this step cannot be captured ({reason}): it runs eagerly", stacklevel=5)


class Captured:
    """A function as a CUDA graph; its results stay where they are, and hold what the last replay made."""

    def __init__(self, function: Callable[[], Guided], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.result = function()
        self.pool = self.graph.pool()

    def replay(self) -> Guided:
        self.graph.replay()
        return self.result


def _reason(eager: Steps) -> str | None:
    """Why these steps cannot be captured."""
    run = eager.run
    if not _can_capture(run.device):
        return f"graph=True needs CUDA, and these images are on {run.device.type}"
    others = [network for network in _networks(run.model, eager.guidance) if not isinstance(network, nn.Module)]
    if others:
        return f"graph=True captures torch.nn.Module, whose weights it can watch, and {others[0]!r:.80} is none"
    if eager.guiding.kind is None:
        return f"graph=True cannot capture {type(eager.guidance).__name__}, which computes on the host at each step"
    if torch.is_autocast_enabled(run.device.type):
        return "graph=True cannot capture under autocast, which keeps its casted weights elsewhere in each call"
    return None


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def _networks(model: object, guidance: object) -> list[object]:
    """The model, and the networks that a guidance calls."""
    found = [model]
    for field in fields(guidance) if is_dataclass(guidance) else ():
        value = getattr(guidance, field.name)
        found += [value] if field.name == "guide" else _networks(model, value)[1:]
    return found


def _key(run: Run, guidance: Guidance, shape: tuple[int, ...], dtype: torch.dtype) -> Hashable:
    weights = [
        (id(network), network.training, *(one.data_ptr() for one in (*network.parameters(), *network.buffers())))
        for network in _networks(run.model, guidance)
        if isinstance(network, nn.Module)
    ]
    return (
        *(shape, dtype, run.dtype, str(run.device), _numbers(run.plan), tuple(weights), _identity(guidance)),
        *(_layout(run.labels), torch.get_float32_matmul_precision()),
    )


def _numbers(plan: Plan) -> Hashable:
    """All of a plan that steps depend on."""
    scales = tuple(plan.input_scale(level) for level in plan.levels)
    numbers = plan.table.numpy().tobytes(), plan.times.numpy().tobytes(), plan.step_of_row, plan.levels, plan.ends
    return *numbers, scales


def _identity(value: object) -> Hashable:
    """What tells one guidance from another: numbers by value, tensors and functions by what they are."""
    if is_dataclass(value):
        return type(value), *(_identity(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Tensor):
        return id(value), value._version
    return value if isinstance(value, int | float | str | tuple | None) else id(value)


def _layout(condition: AnyCondition) -> Hashable:
    if isinstance(condition, Condition):
        return tuple((name, _layout(part)) for name, part in condition.parts().items())
    return None if condition is None else (tuple(condition.shape), condition.dtype)

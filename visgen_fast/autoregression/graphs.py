"""Drawing by CUDA graphs: a whole loop, all decoding steps with network and draws, is captured once and replayed.

A captured loop works on memory that stays where it is: the seeds, condition, known codes and parameters of a call are
copied in, and the caches of the network lie in the graph's own memory. Every step has kernels of its own in the graph,
since its place, its cache's length and its stream of noise are numbers. The first call of a kind runs eagerly, which
warms the network up.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..nn.conditions import AnyCondition, Condition, apply_to_parts
from .loop import Draws, loop
from .model import CodeModel

MOST_KEPT = 4
_kept: OrderedDict[Hashable, Graphed] = OrderedDict()
_lock, _capturing = threading.Lock(), threading.Lock()


def replayed(
    model: CodeModel, draws: Draws, condition: AnyCondition, seeds: Tensor, given: Tensor | None
) -> Tensor | None:
    """What `loop` gives, by the graph of an earlier call like this one; None, with a warning, where none can be made.

    Calls are alike that have the same shapes, types, numbers in the draws, model, and addresses of its weights. The
    last `MOST_KEPT` kinds of call are kept, with their models, until `release_graphs`.
    """
    reason = _reason(seeds)
    if reason is not None:
        warnings.warn(f"{reason}: codes are drawn eagerly", stacklevel=4)
        return None
    key = _key(model, draws, condition, seeds, given)
    with _lock:
        if key not in _kept:
            _kept[key] = Graphed(model, draws, condition, seeds, given)
        _kept.move_to_end(key)
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
        graphed = _kept[key]
    return graphed(draws, condition, seeds, given)


def release_graphs() -> None:
    """Lets go of all graphs that `sample` captured, and of the models and memory that they hold."""
    with _lock:
        _kept.clear()


class Graphed:
    """A loop that is captured at its second call. It serves one call at a time: another thread's waits."""

    def __init__(
        self, model: CodeModel, draws: Draws, condition: AnyCondition, seeds: Tensor, given: Tensor | None
    ) -> None:
        self.model = model
        self.draws = replace(draws, **{name: _copy(value) for name, value in vars(draws).items()})
        self.condition = apply_to_parts(condition, torch.clone)
        self.seeds, self.given = seeds.clone(), None if given is None else given.clone()
        self.captured: Any = None
        self._warm, self._failed, self._busy = False, False, threading.Lock()

    def __call__(self, draws: Draws, condition: AnyCondition, seeds: Tensor, given: Tensor | None) -> Tensor:
        with self._busy:
            for here, there in zip(
                _tensors(self.draws, self.condition, self.seeds, self.given),
                _tensors(draws, condition, seeds, given),
                strict=True,
            ):
                here.copy_(there)
            if self._warm and self.captured is None and not self._failed:
                self._capture()
            self._warm = True
            return self._draw() if self.captured is None else self.captured.replay().clone()

    def _draw(self) -> Tensor:
        return loop(self.model, self.draws, self.condition, self.seeds, self.given)

    def _capture(self) -> None:
        try:
            with _capturing:
                self.captured = Captured(self._draw)
        except (RuntimeError, ValueError) as error:
            self._failed = True
            reason = str(error).partition("\n")[0]
            warnings.warn(f"this loop cannot be captured ({reason}): codes are drawn eagerly", stacklevel=5)


class Captured:
    """A function as a CUDA graph; its result stays where it is, and holds what the last replay made."""

    def __init__(self, function: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result: Tensor = function()

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.result


def _reason(seeds: Tensor) -> str | None:
    """Why this loop cannot be captured."""
    if not _can_capture(seeds.device):
        return f"graph=True needs CUDA, and these seeds are on {seeds.device.type}"
    if torch.is_autocast_enabled(seeds.device.type):
        return "graph=True cannot capture under autocast, which keeps its casted weights elsewhere in each call"
    return None


def _can_capture(device: torch.device) -> bool:
    return device.type == "cuda"


def _copy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_copy, value))
    return value.clone() if isinstance(value, Tensor) else value


def _tensors(*values: Any) -> list[Tensor]:
    """All tensors in the values, in a fixed order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple):
            found += _tensors(*value)
        elif isinstance(value, Draws):
            found += _tensors(*vars(value).values())
        elif isinstance(value, Condition):
            found += value.parts().values()
    return found


def _key(model: CodeModel, draws: Draws, condition: AnyCondition, seeds: Tensor, given: Tensor | None) -> Hashable:
    weights = tuple(one.data_ptr() for one in (*model.parameters(), *model.buffers()))
    names = tuple(condition.parts()) if isinstance(condition, Condition) else type(condition)
    layout = tuple((tuple(one.shape), one.dtype) for one in _tensors(draws, condition, seeds, given))
    numbers = tuple(_number(value) for value in vars(draws).values())
    return (
        *(id(model), model.training, weights, names, layout, numbers, given is None, str(seeds.device)),
        torch.get_float32_matmul_precision(),
    )


def _number(value: Any) -> Hashable:
    """What tells one parameter from another: numbers by value, tensors only by being some."""
    if isinstance(value, tuple):
        return tuple(map(_number, value))
    return "tensor" if isinstance(value, Tensor) else value

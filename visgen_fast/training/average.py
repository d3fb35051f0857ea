"""The exponential moving average of the weights, which draws better images than the weights of any one step."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from .adamw import local
from .system import System

S = TypeVar("S", bound=System)


class MovingAverage(Generic[S]):
    """Copies of a system's `averaged` sub-modules, which follow the trained: average ← d·average + (1 − d)·trained.

    d is `decay`, but at most (1 + n)/(10 + n) at update n, so that the first steps are forgotten soon. Buffers are
    copied. What a system changes in a parameter after the step is followed from the next step on. `weights` holds the
    copies alone. `module` is the system with the copies in place and in evaluation mode;
    the rest of it, what is frozen and what draws nothing, is the trained system's own.
    """

    def __init__(self, system: S, decay: float) -> None:
        self.decay = decay
        # All at once, so that weights which two modules share stay one.
        copies = copy.deepcopy({name: system.get_submodule(name) for name in system.averaged}, self._memo(system))
        self.weights = _container({name: module.eval().requires_grad_(False) for name, module in copies.items()})
        self._trained = _container({name: system.get_submodule(name) for name in copies})
        self.module = copy.copy(system)
        self.module._modules = {**system._modules, **copies}
        self.module.training = False

    def _memo(self, system: S) -> dict[int, Any]:
        """What is not copied, but is itself: what is frozen is in memory once, wherever in an averaged module."""
        frozen = [system.get_submodule(name) for name in system.frozen]
        return {
            id(part): part for module in frozen for part in (*module.modules(), *module.parameters(), *module.buffers())
        }

    def tensors(self) -> dict[str, Tensor]:
        """The state dict of the copies."""
        return self.weights.state_dict()

    @property
    def of(self) -> dict[Tensor, Tensor]:
        """The average of each trained parameter that has one."""
        averages, trained = _pairs(self.weights.parameters(), self._trained.parameters())
        return dict(zip(trained, averages, strict=True))

    def decay_at(self, count: int) -> float:
        """d at optimizer step `count`; 1 is the first."""
        return min(self.decay, (1 + count) / (10 + count))

    @torch.no_grad()
    def update(self, count: int, moved: Collection[Tensor] = ()) -> None:
        """Moves the average towards the trained weights after step `count`, but for the parameters of `moved`.

        Those moved with the optimizer.
        """
        rest = {local(trained): local(average) for trained, average in self.of.items() if trained not in moved}
        if rest:
            torch._foreach_lerp_([*rest.values()], [*rest], 1 - self.decay_at(count))
        for average, buffer in zip(*_pairs(self.weights.buffers(), self._trained.buffers()), strict=True):
            average.copy_(buffer)


def _container(modules: dict[str, nn.Module]) -> nn.Module:
    """A module that has these sub-modules and nothing else."""
    container = nn.Module()
    for name, module in modules.items():
        container.add_module(name, module)
    return container


def _pairs(averages: Iterable[Tensor], trained: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Both, without the frozen tensors, which stand in both."""
    pairs = [(average, own) for average, own in zip(averages, trained, strict=True) if average is not own]
    return [average for average, _ in pairs], [own for _, own in pairs]

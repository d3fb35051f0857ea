"""Where a system's weights are: a copy on every rank, or the only one where there is one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .. import ops
from ..data.order import Batch
from . import optimizer_state
from .adamw import gradients_of
from .average import MovingAverage
from .blocks import prepare_blocks
from .checkpoint import Checkpoint
from .settings import TrainingSettings
from .system import Player, System

Loss = Callable[[Batch], Tensor]


class Copies:
    """A system that every rank holds whole, and whose gradients the ranks average (PyTorch's DDP).

    `average` is the moving average of its weights. `Shards` has the same methods.
    """

    sharded = False

    def __init__(self, system: System, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self.system, self.accelerator = system, accelerator
        self.average = MovingAverage(system, settings.ema_decay)
        self.average.weights.to(accelerator.device)
        prepare_blocks(system, settings)

    def loss(self, player: Player) -> Loss:
        """The player's loss, to be called in its turns alone; made while only its parameters require gradients."""
        return self.accelerator.prepare_model(_PlayersLoss(self.system, player))

    def micro_batch(self, loss: Loss, *, last: bool) -> AbstractContextManager[Any]:
        """Around a forward and a backward: the ranks' gradients are averaged with the last micro-batch."""
        return nullcontext() if last else self.accelerator.no_sync(loss)

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The norm of the whole gradient of the parameters that have one."""
        gradients = gradients_of(parameters)
        return ops.gradient_norm(gradients) if gradients else torch.zeros((), device=self.accelerator.device)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), which may look at the system's weights and use its networks."""
        return function(*arguments)

    def tensors(self, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps: the tensors of each of its parts, by their names in the system."""
        return kept(self.system, self.average, optimizers)

    def load(self, saved: Checkpoint, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Takes over what `tensors` gave to a checkpoint; `UserError` where it is damaged, or of another network."""
        saved.load_into(self.system, "weights")
        saved.load_into(self.average.weights, "average")
        saved.load_optimizers(optimizers, self.system)

    @contextmanager
    def drawing(self) -> Iterator[System]:
        """The system with the averaged weights, to draw with on the main rank; all ranks enter."""
        yield self.average.module


def kept(
    system: System, average: MovingAverage[System], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part of a checkpoint, without those of frozen modules."""
    inside = tuple(f"{name}." for name in system.frozen)
    parts = {
        name: {key: tensor for key, tensor in tensors.items() if not key.startswith(inside)}
        for name, tensors in {"weights": system.state_dict(), "average": average.tensors()}.items()
    }
    return {**parts, "optimizer": optimizer_state.tensors(optimizers, system)}


class _PlayersLoss(nn.Module):
    """A system whose forward is the loss of one player."""

    def __init__(self, system: System, player: Player) -> None:
        super().__init__()
        self.system, self.player = system, player

    def forward(self, batch: Batch) -> Tensor:
        return self.player.loss(batch)

"""A player's turn: its loss over the step's micro-batches, its gradient, its optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .. import ops
from ..data.order import Batch
from .adamw import AdamW, gradients_of
from .settings import TrainingSettings
from .system import Player, System


class Turn:
    """A player with its AdamW, and with a module of its own to wrap for data-parallel training.

    `place` is its place among the players; their parameters but its own are `others`. `averages` follow the parameters.
    """

    def __init__(
        self,
        system: System,
        player: Player,
        place: int,
        others: Sequence[nn.Parameter],
        averages: Mapping[Tensor, Tensor],
        settings: TrainingSettings,
        accelerator: Accelerator,
    ) -> None:
        self.player, self.place, self.others = player, place, others
        self.settings, self.accelerator = settings, accelerator
        self.adamw = AdamW(
            player.parameters,
            averages,
            lr=settings.learning_rate,
            betas=(player.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        self.moved: set[Tensor] = set()  # parameters that the last turn moved, their averages with them
        # The wrapper waits for the gradients of what requires them now.
        with self._alone():
            self.model, self.optimizer = accelerator.prepare(_PlayersLoss(system, player), self.adamw)

    def take(self, batches: Sequence[Batch], rate: float, average_decay: float) -> tuple[Tensor, Tensor]:
        """Learns from the step's micro-batches at the run's learning rate `rate`.

        Returns the mean loss of this rank's images, and the norm of the gradient before it is clipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.player.lr_scale
        loss = torch.zeros((), device=self.accelerator.device)
        with self._alone():
            for left, batch in zip(range(len(batches))[::-1], batches, strict=True):
                # Dropout draws from torch's generators: anew for each turn, and the same after an interruption.
                torch.manual_seed(batch.module_seed + self.place)
                # The ranks' gradients are averaged with the last micro-batch.
                with self.accelerator.no_sync(self.model) if left else nullcontext():
                    share = self.model(batch.to(self.accelerator.device)).mean() / len(batches)
                    self.accelerator.backward(share)
                loss += share.detach()
        self.accelerator.unscale_gradients(self.optimizer)
        gradients = gradients_of(self.player.parameters)
        norm = ops.gradient_norm(gradients) if gradients else torch.zeros_like(loss)
        self.adamw.gradient_scale = (self.settings.gradient_clip / (norm + 1e-6)).clamp(max=1)
        self.adamw.average_decay = average_decay
        self.optimizer.step()
        moved = () if self.optimizer.step_was_skipped else self.player.parameters
        self.moved = {parameter for parameter in moved if parameter.grad is not None}
        self.optimizer.zero_grad()
        return loss, norm

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While this lasts, no other player's parameters require gradients."""
        for parameter in self.others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.others:
                parameter.requires_grad_(True)


class _PlayersLoss(nn.Module):
    """A system whose forward is the loss of one player."""

    def __init__(self, system: System, player: Player) -> None:
        super().__init__()
        self.system, self.player = system, player

    def forward(self, batch: Batch) -> Tensor:
        return self.player.loss(batch)

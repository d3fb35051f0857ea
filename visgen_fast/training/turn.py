"""A player's turn: its loss over the step's micro-batches, its gradient, its optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.order import Batch
from .settings import TrainingSettings
from .system import Player, System


class Turn:
    """A player with its AdamW, and with a module of its own to wrap for data-parallel training.

    `place` is its place among the players; their parameters but its own are `others`.
    """

    def __init__(
        self,
        system: System,
        player: Player,
        place: int,
        others: Sequence[nn.Parameter],
        settings: TrainingSettings,
        accelerator: Accelerator,
    ) -> None:
        self.player, self.place, self.others = player, place, others
        self.settings, self.accelerator = settings, accelerator
        optimizer = torch.optim.AdamW(
            player.parameters,
            lr=settings.learning_rate,
            betas=(player.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            # Many times faster on the CPU. Under a loss scaler it would not say that it left a step out.
            fused=settings.mixed_precision != "fp16",
        )
        # The wrapper waits for the gradients of what requires them now.
        with self._alone():
            self.model, self.optimizer = accelerator.prepare(_PlayersLoss(system, player), optimizer)

    def take(self, batches: Sequence[Batch], rate: float) -> tuple[Tensor, Tensor]:
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
        norm = nn.utils.clip_grad_norm_(self.player.parameters, self.settings.gradient_clip)
        self.optimizer.step()
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

"""A player's turn: its loss over the step's micro-batches, its gradient, its optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.order import Batch
from .adamw import AdamW
from .copies import Copies
from .operations import CountedOperations
from .settings import TrainingSettings
from .shards import Shards
from .system import Player


class Turn:
    """A player with its AdamW, and with its loss on all ranks.

    `place` is its place among the players; their parameters but its own are `others`. `weights` says where these are.
    """

    def __init__(
        self,
        player: Player,
        place: int,
        others: Sequence[nn.Parameter],
        weights: Copies | Shards,
        settings: TrainingSettings,
        accelerator: Accelerator,
    ) -> None:
        self.player, self.place, self.others, self.weights = player, place, others, weights
        self.settings, self.accelerator = settings, accelerator
        self.adamw = AdamW(
            player.parameters,
            weights.average.of,
            lr=settings.learning_rate,
            betas=(player.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        self.operations: float | None = None  # of an image, which the first turn counts
        self.moved: set[Tensor] = set()  # parameters that the last turn moved, their averages with them
        with self._alone():
            self.loss = weights.loss(player)
        self.optimizer = accelerator.prepare_optimizer(self.adamw)

    def take(self, batches: Sequence[Batch], rate: float, average_decay: float) -> tuple[Tensor, Tensor]:
        """Learns from the step's micro-batches at the run's learning rate `rate`.

        Returns the mean loss of this rank's images, and the norm of the gradient before it is clipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.player.lr_scale
        loss = torch.zeros((), device=self.accelerator.device)
        counted = CountedOperations()
        # In the first turn of a run alone: a compiled network may run eagerly while operations are counted.
        with self._alone(), counted if self.operations is None else nullcontext():
            for left, batch in zip(range(len(batches))[::-1], batches, strict=True):
                # Dropout draws from torch's generators: anew for each turn, and the same after an interruption.
                torch.manual_seed(batch.module_seed + self.place)
                with self.weights.micro_batch(self.loss, last=not left):
                    share = self.loss(batch.to(self.accelerator.device)).mean() / len(batches)
                    with counted.backward():
                        self.accelerator.backward(share)
                loss += share.detach()
        if self.operations is None:
            self.operations = counted.total / sum(len(batch.positions) for batch in batches)
        self.accelerator.unscale_gradients(self.optimizer)
        norm = self.weights.gradient_norm(self.player.parameters)
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

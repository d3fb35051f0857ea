"""Priors: what models images, or the latents or codes of a first stage, in a generative system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .conditions import AnyCondition, Null


class Prior(nn.Module, ABC):
    """A model of x [B, *shape] under a condition of B samples (`nn.conditions`), which can be drawn from.

    Whoever trains it drops conditions; `null` stands for a dropped one.
    """

    @abstractmethod
    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        """The loss of each sample, [B]; all that is random comes from `seeds` int64 [B].

        positions: the samples' places in the run, int64 [B], for what goes by them.
        """

    @abstractmethod
    def draw(
        self,
        shape: tuple[int, ...],
        condition: AnyCondition,
        seeds: Tensor,
        *,
        null: Null = None,
        callback: Callable[..., None] | None = None,
        **options: Any,
    ) -> Tensor:
        """Samples [B, *shape], drawn from `seeds` int64 [B]; without gradients.

        callback: as of `visgen_fast.diffusion.sample`. options: as of `options`.
        """

    @abstractmethod
    def options(self, **asked: Any) -> dict[str, Any]:
        """Every option that `draw` would draw with, if it were asked for these; `steps` and `guidance` are two.

        ValueError for options that are none or don't fit together.
        """

    def after_step(self) -> None:
        """Called after every optimizer step, on every rank: for what learns otherwise than by gradients."""

"""The prior that is a masked model of codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..nn.conditions import AnyCondition
from .masking import masked_loss, require_masked, sample_by_confidence
from .model import CodeModel
from .prior import CodePrior, CodeSampling


@dataclass(frozen=True)
class MaskedSampling(CodeSampling):
    """How codes are drawn: as of `autoregression.sample_by_confidence`."""

    steps: int = 12
    schedule: str = "cosine"
    choice_temperature: float = 4.5


class MaskedCodePrior(CodePrior):
    """A `CodePrior` with a masked model, as of Chang et al., "MaskGIT", 2022. The loss is that of hidden codes.

    label_smoothing: as of `masked_loss`. ValueError for a model that is not masked.
    """

    metric_name = "bits_per_hidden_code"
    draws: Callable[..., Tensor] = staticmethod(sample_by_confidence)
    sampler: MaskedSampling

    def __init__(self, model: CodeModel, sampler: MaskedSampling, label_smoothing: float = 0.1) -> None:
        super().__init__(model, sampler)
        require_masked(model)
        self.label_smoothing = label_smoothing

    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        return masked_loss(
            *(self.model, x, condition, seeds),
            schedule=self.sampler.schedule,
            label_smoothing=self.label_smoothing,
            candidates=None if self.own is None else self.own.to(x.device),
        )

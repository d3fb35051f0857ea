"""What is trained when a masked model of codes is, and how its images are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..autoregression.masking import masked_loss, require_masked, sample_by_confidence
from ..autoregression.model import CodeModel
from ..data.images import Images, Part, evenly
from .codes import CodeSampling, CodeSystem


@dataclass(frozen=True)
class MaskedSampling(CodeSampling):
    """How codes are drawn: as of `autoregression.sample_by_confidence`."""

    steps: int = 12
    schedule: str = "cosine"
    choice_temperature: float = 4.5


class MaskedSystem(CodeSystem):
    """A `CodeSystem` with a masked model, as of Chang et al., "MaskGIT", 2022. The loss is that of hidden codes.

    Bits are those of the model's own order. label_smoothing: as of `masked_loss`.
    """

    metric_names = ("bits_per_hidden_code",)
    examined = 256  # each image takes a pass for every code
    drawing: MaskedSampling

    def __init__(
        self,
        model: CodeModel,
        tokenizer: nn.Module,
        drawing: MaskedSampling,
        label_drop: float,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__(model, tokenizer, drawing, label_drop)
        require_masked(model)
        self.label_smoothing = label_smoothing

    def code_loss(self, images: Tensor, labels: Tensor, seeds: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            codes = self.codec.encode(images)
        own = self.own_codes
        return masked_loss(
            self.model,
            codes,
            labels,
            seeds,
            schedule=self.drawing.schedule,
            label_smoothing=self.label_smoothing,
            candidates=None if own is None else own.to(codes.device),
        )

    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """See `CodeSystem`; of some of the images, spread evenly."""
        return super().evaluate(Part(images, evenly(len(images), self.examined)), device=device)

    def draw_codes(
        self,
        labels: Tensor,
        seeds: Tensor,
        settings: CodeSampling,
        known: Tensor | None,
        callback: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        return sample_by_confidence(self.model, labels, seeds, known=known, callback=callback, **settings.arguments())

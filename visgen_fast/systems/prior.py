"""What is trained when a model of codes is, and how its images are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..autoregression.likelihood import nll
from ..autoregression.model import CodeModel
from ..autoregression.sampling import sample
from ..data.images import Images, in_chunks, to_range
from ..data.order import Batch
from ..diffusion.guidance import drop_labels
from .classes import check_labels, check_options, guidance_after
from .diffusion import GenerativeSystem


class Codec(Protocol):
    """What turns images [B, C, H, W] in [−1, 1] into codes int64 [B, *grid, Q], and back."""

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class CodeSampling:
    """How codes are drawn: as of `autoregression.sample`, for all images alike."""

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


class CodeSystem(GenerativeSystem):
    """A class-conditional model of the codes of a tokenizer, which stays as it is. The loss is in nats per code.

    model: of the tokenizer's codes, with a null label. label_drop: share of the images trained on without their label.
    """

    metric_names = ("bits_per_code",)
    frozen = ("tokenizer",)

    def __init__(self, model: CodeModel, tokenizer: nn.Module, drawing: CodeSampling, label_drop: float) -> None:
        super().__init__()
        if model.null_label is None:
            raise ValueError("the model must have classes: a system of codes draws images of classes")
        self.model, self.tokenizer, self.drawing, self.label_drop = model, tokenizer, drawing, label_drop
        self.null_label = model.null_label
        self._losses: list[Tensor] = []

    @property
    def codec(self) -> Codec:
        """The tokenizer, as what is known of it."""
        return self.tokenizer  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            codes = self.codec.encode(to_range(batch.images))
        labels = drop_labels(batch.labels, batch.seeds, self.label_drop, self.null_label)
        losses = nll(self.model, codes, labels).flatten(1).mean(1)
        self._losses.append(losses.detach().mean())
        return losses

    def metrics(self) -> dict[str, Tensor]:
        mean = torch.stack(self._losses).mean()
        self._losses.clear()
        return {"bits_per_code": mean / math.log(2)}

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """Bits of the held-out images, whose labels the model is told, unless it never saw any.

        Bits per dimension, a value of a pixel, are there where the codes of none of the images lose anything.
        """
        total, exact = 0.0, True
        for shown, labels in in_chunks(images, device):
            told = drop_labels(labels, torch.zeros_like(labels), math.floor(self.label_drop), self.null_label)
            codes = self.codec.encode(shown)
            total += float(nll(self.model, codes, told).double().sum())
            exact = exact and torch.equal(self.codec.decode(codes), shown)
        bits = total / len(images) / math.log(2)
        found = {"bits_per_code": bits / self.model.order.length, "bits_per_image": bits}
        return {**found, "bits_per_dim": bits / math.prod(images.format.shape)} if exact else found

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, callback: Callable[..., None] | None = None, **options: Any
    ) -> Tensor:
        settings = self._settings(options)
        check_labels(labels, self.null_label)

        def show(step: int, codes: Tensor) -> None:
            if callback is not None:
                images = self.codec.decode(codes.clamp_min(0))
                callback(step, 1 - (step + 1) / self.model.order.count, images, images)

        drawing = asdict(settings)
        drawn = sample(self.model, labels, seeds, callback=None if callback is None else show, **drawing)
        return self.codec.decode(drawn)

    def options(self, **asked: Any) -> dict[str, Any]:
        settings = asdict(self._settings(asked))
        return {
            "steps": self.model.order.count,
            **{name: value for name, value in settings.items() if value is not None},
        }

    def _settings(self, asked: dict[str, Any]) -> CodeSampling:
        asked = {name: value for name, value in asked.items() if value is not None}
        steps, count = asked.pop("steps", None), self.model.order.count
        if steps not in (None, count):
            raise ValueError(f"steps must be {count}, those of the order in which the codes are drawn, got {steps}")
        check_options(asked, [field.name for field in fields(CodeSampling)], "a model of codes")
        wanted = replace(self.drawing, **asked)
        guidance = guidance_after(self.label_drop, wanted.guidance, asked="guidance" in asked)
        return replace(wanted, guidance=guidance)

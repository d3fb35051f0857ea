"""What is trained when a normalizing flow is, and how its images are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import ops
from ..data.images import Images, in_chunks, to_range
from ..data.order import Batch
from ..diffusion.guidance import drop_labels
from ..flows.dequantization import Dequantization
from ..flows.flow import Flow, cleaned
from ..nn.conditions import AnyCondition
from .classes import check_labels, guidance_after, without_class
from .generative import GenerativeSystem


@dataclass(frozen=True)
class FlowSampling:
    """How a flow draws images.

    guidance: weight of the label, 1 is none beyond what training gave; temperature: what the noise is multiplied by.
    """

    guidance: float = 1.0
    temperature: float = 1.0


class FlowSystem(GenerativeSystem):
    """A class-conditional flow of dequantized pixels. The loss is in bits per dimension, a bound of the pixels' own.

    label_drop: share of the images trained on without their label.
    """

    gives_likelihood = True

    def __init__(
        self, flow: Flow, dequantization: Dequantization, drawing: FlowSampling, label_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.flow, self.dequantization, self.drawing, self.label_drop = flow, dequantization, drawing, label_drop

    def forward(self, batch: Batch) -> Tensor:
        labels = drop_labels(batch.labels, batch.seeds, self.label_drop, self.flow.null_label)
        return self._bits(to_range(batch.images), labels, batch.seeds) / math.prod(self.flow.shape)

    def _bits(self, images: Tensor, labels: AnyCondition, seeds: Tensor) -> Tensor:
        """The bound of each image in [−1, 1], in bits, [B]."""
        noised = self.dequantization.noised(images, seeds)
        return self.dequantization.bits(noised, images, self.flow.log_likelihood(noised, labels))

    @torch.no_grad()
    def bits(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        nobody = without_class(self.label_drop, self.flow.null_label, seeds)
        return self._bits(to_range(pixels), nobody, seeds).double()

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """Bits of the held-out images, whose labels the flow is told, unless it never saw any.

        They bound what an image of `levels` values costs; bits per dimension, a value of a pixel, are there where these
        levels lose nothing of any image.
        """
        total, measured, exact = 0.0, 0, True
        for shown, labels in in_chunks(images, device):
            told = drop_labels(labels, torch.zeros_like(labels), math.floor(self.label_drop), self.flow.null_label)
            places = measured + torch.arange(len(shown), device=device)
            seeds = ops.derive_seeds(0, places, purpose=ops.Purpose.LIKELIHOOD)
            total += float(self._bits(shown, told, seeds).double().sum())
            exact = exact and self.dequantization.loses_nothing(shown)
            measured += len(shown)
        bits = total / measured
        found = {"bits_per_image": bits}
        return {**found, "bits_per_dim": bits / math.prod(self.flow.shape)} if exact else found

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, callback: Callable[..., None] | None = None, **options: Any
    ) -> Tensor:
        check_labels(labels, self.flow.null_label)
        settings = self._settings(options)
        noise = ops.gaussian(seeds, self.flow.shape, stream=ops.Purpose.INITIAL_STATE.stream())
        drawn = self.flow.inverse(settings.temperature * noise, labels, guidance=settings.guidance)
        if self.dequantization.width > 0:
            drawn = cleaned(self.flow, drawn, labels, self.dequantization.width)
        images = self.dequantization.images(drawn)
        if callback is not None:
            callback(0, 0.0, images, images)
        return images

    def options(self, **asked: Any) -> dict[str, Any]:
        return {"steps": 1, **asdict(self._settings(asked))}

    def _settings(self, asked: dict[str, Any]) -> FlowSampling:
        asked = {name: value for name, value in asked.items() if value is not None}
        if (steps := asked.pop("steps", 1)) != 1:
            raise ValueError(f"steps must be 1 for a normalizing flow, which draws in one go, got {steps}")
        check.options(asked, [field.name for field in fields(FlowSampling)], "a normalizing flow")
        wanted = replace(self.drawing, **asked)
        if not self.flow.guidable and wanted.guidance != 1:
            raise ValueError(
                f"guidance must be 1 for {type(self.flow).__name__}, which has none, got {wanted.guidance}"
            )
        guidance = guidance_after(self.label_drop, wanted.guidance, asked="guidance" in asked)
        if wanted.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {wanted.temperature}")
        return replace(wanted, guidance=guidance)

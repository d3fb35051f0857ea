"""What is trained when a model of codes is, and how its images are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..autoregression.likelihood import nll
from ..autoregression.model import CodeModel
from ..autoregression.prior import CodePrior
from ..data.images import Images, Part, evenly, in_chunks, to_range
from ..data.order import Batch
from ..evaluation.codes import Codec, CodeEvaluation, evaluate_codes
from ..nn.class_condition import Labels
from ..nn.conditions import AnyCondition
from ..tokenizers.code_stage import CodeStage
from ..tokenizers.places import above, grids_of, maps, outside
from ..training.system import Findings
from .classes import without_class
from .prior import PriorSystem


class CodeSystem(PriorSystem):
    """A `PriorSystem` of a tokenizer's codes: it says how probable images are, and completes them.

    ValueError for labels and a model without classes.
    """

    prior: CodePrior
    first_stage: CodeStage
    gives_likelihood = True

    def __init__(self, prior: CodePrior, condition: Labels, first_stage: CodeStage) -> None:
        super().__init__(prior, condition, first_stage)
        if type(condition) is Labels and prior.model.null_label is None:
            raise ValueError("the model must have classes: a system of codes draws images of classes")
        self.metric_names = (prior.metric_name,)
        self.examined = 2000 if prior.model.one_pass else 256  # a masked one takes a pass for every code
        self._losses: list[Tensor] = []

    @property
    def model(self) -> CodeModel:
        return self.prior.model

    @property
    def tokenizer(self) -> nn.Module:
        return self.first_stage.tokenizer

    @property
    def codec(self) -> Codec:
        """The tokenizer, as what is known of it."""
        return self.tokenizer  # type: ignore[return-value]

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The grids over the image whose places the codes have, as of `grids_of`."""
        return grids_of(self.tokenizer, self.model.order.shape[:-1])

    @property
    def tokens(self) -> int:
        return math.prod(self.model.order.shape)

    def given(self, images: Tensor, part: float | Tensor) -> Tensor:
        """The codes of a part of images [B, C, H, W], −1 for the others: what `sample` takes as `known`.

        part: the upper share; or a mask, bool [H, W], of what is drawn: given are the codes of places outside it.
        ValueError for a share outside (0, 1), and for codes that belong to no place of the image.
        """
        if not isinstance(part, Tensor) and not 0 < part < 1:
            raise ValueError(f"complete must lie between 0 and 1, got {part}")
        if not self.grids:
            raise ValueError("complete needs codes with places in the image, and those of this tokenizer have none")
        with torch.no_grad():
            codes = self.codec.encode(images)
        there = outside(self.grids, part) if isinstance(part, Tensor) else above(self.grids, part)
        return torch.where(there.to(codes.device).view(*codes.shape[1:-1], 1), codes, -1)

    def forward(self, batch: Batch) -> Tensor:
        losses = self.code_loss(to_range(batch.images), self.told(batch.labels, batch.seeds), batch.seeds)
        self._losses.append(losses.detach().mean())
        return losses

    def code_loss(self, images: Tensor, told: AnyCondition, seeds: Tensor) -> Tensor:
        """The mean over its codes for each of the images [B, C, H, W], whose seeds decide what is random in it."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            codes = self.codec.encode(images)
        return self.prior.loss(codes, told, seeds)

    def metrics(self) -> dict[str, Tensor]:
        mean = torch.stack(self._losses).mean()
        self._losses.clear()
        return {self.prior.metric_name: mean / math.log(2)}

    @torch.no_grad()
    def bits(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Of the codes, which may lose something of the image."""
        nobody = self.condition(without_class(self.condition.drop, self.condition.null_label, seeds))
        model, codes = self.measured, self.codec.encode(to_range(pixels))
        found = nll(model, codes, nobody, stepwise=not model.one_pass)
        return found.double().flatten(1).sum(1) / math.log(2)

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """Bits of the held-out images; of some of them, spread evenly, and in its own order for a masked model.

        Bits per dimension are there where the codes of none of them lose anything.
        """
        measured = images if self.model.one_pass else Part(images, evenly(len(images), self.examined))
        found = self.measure(measured, device=device)
        bits = {"bits_per_code": found.bits_per_code, "bits_per_image": found.bits_per_image}
        return bits if found.bits_per_dim is None else {**bits, "bits_per_dim": found.bits_per_dim}

    def measure(self, images: Images, *, device: torch.device) -> CodeEvaluation:
        """Bits of images and where they go. The model is told the images' labels, unless it never saw any."""

        def told(labels: Tensor) -> AnyCondition:
            drop, null = self.condition.drop, self.condition.null_label
            return self.condition(labels if drop < 1 else torch.full_like(labels, null))

        model, chunks = self.measured, in_chunks(images, device)
        batches = ((shown, told(labels)) for shown, labels in chunks)
        return evaluate_codes(model, self.codec, batches, stepwise=not model.one_pass)

    @property
    def measured(self) -> CodeModel:
        """The model of which the bits are."""
        return self.model

    def examine(self, images: Images, *, device: torch.device, **options: Any) -> Findings:
        """Bits by place, by depth and by step."""
        from ..evaluation.code_report import as_text, write

        found = self.measure(images, device=device)

        def with_maps(out: Path, head: Mapping[str, Any]) -> None:
            write(found, maps(found.by_position, self.grids), out, head)

        return Findings([as_text(found)], with_maps)

    def decode(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents)

"""What is trained when a model of codes is, and how its images are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check as check
from ..autoregression.likelihood import nll
from ..autoregression.model import CodeModel
from ..autoregression.sampling import sample
from ..data.images import Images, evenly, in_chunks, to_range
from ..data.order import Batch
from ..diffusion.guidance import drop_labels
from ..evaluation.codes import Codec, CodeEvaluation, evaluate_codes
from ..tokenizers.pixels import PixelCodes, fit_palette
from ..tokenizers.places import above, grids_of, maps, outside
from ..training.system import Findings
from .classes import check_labels, guidance_after, without_class
from .generative import GenerativeSystem

_PALETTE_PIXELS = 2**16  # that a palette is found among


@dataclass(frozen=True)
class CodeSampling:
    """How codes are drawn: as of `autoregression.sample`, for all images alike.

    guidance_ramp: guidance grows from 1 at the first step to its weight at the last.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance_ramp: bool = False

    def arguments(self) -> dict[str, Any]:
        """Those of `autoregression.sample`."""
        found = asdict(self)
        if found.pop("guidance_ramp"):
            found["guidance"] = lambda progress: 1 + (self.guidance - 1) * progress
        return found


class CodeSystem(GenerativeSystem):
    """A class-conditional model of the codes of a tokenizer, which stays as it is. The loss is in nats per code.

    model: of the tokenizer's codes, with a null label. label_drop: share of the images trained on without their label.
    """

    metric_names = ("bits_per_code",)
    frozen: tuple[str, ...] = ("tokenizer",)
    gives_likelihood = True
    examined = 2000

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

    @property
    def grids(self) -> list[tuple[int, int]]:
        """The grids over the image whose places the codes have, as of `grids_of`."""
        return grids_of(self.tokenizer, self.model.order.shape[:-1])

    @property
    def tokens(self) -> int:
        return math.prod(self.model.order.shape)

    def begin(self, images: Images, *, device: torch.device) -> None:
        """Finds the palette of pixels that have one, among those of the training images."""
        if isinstance(self.tokenizer, PixelCodes) and self.tokenizer.palette is not None:
            some = max(1, _PALETTE_PIXELS // (images.format.height * images.format.width))
            pixels, _, _ = images.read(evenly(len(images), some))
            self.tokenizer.palette.copy_(fit_palette(to_range(pixels), len(self.tokenizer.palette)))

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
        labels = drop_labels(batch.labels, batch.seeds, self.label_drop, self.null_label)
        assert isinstance(labels, Tensor)  # as the batch's are
        losses = self.code_loss(to_range(batch.images), labels, batch.seeds)
        self._losses.append(losses.detach().mean())
        return losses

    def code_loss(self, images: Tensor, labels: Tensor, seeds: Tensor) -> Tensor:
        """The mean over its codes for each of the images [B, C, H, W], whose seeds decide what is random in it."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            codes = self.codec.encode(images)
        losses, own = nll(self.model, codes, labels), self.own_codes
        return losses.flatten(1).mean(1) if own is None else losses[:, own.to(losses.device)].mean(1)

    @property
    def own_codes(self) -> Tensor | None:
        """bool [*grid, Q]: the codes that the model draws itself; None for all."""
        return None

    def metrics(self) -> dict[str, Tensor]:
        mean = torch.stack(self._losses).mean()
        self._losses.clear()
        return {self.metric_names[0]: mean / math.log(2)}

    @torch.no_grad()
    def bits(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Of the codes, which may lose something of the image."""
        nobody = without_class(self.label_drop, self.null_label, seeds)
        model, codes = self.measured, self.codec.encode(to_range(pixels))
        found = nll(model, codes, nobody, stepwise=not model.one_pass)
        return found.double().flatten(1).sum(1) / math.log(2)

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """Bits of the held-out images. Bits per dimension are there where the codes of none of them lose anything."""
        found = self.measure(images, device=device)
        bits = {"bits_per_code": found.bits_per_code, "bits_per_image": found.bits_per_image}
        return bits if found.bits_per_dim is None else {**bits, "bits_per_dim": found.bits_per_dim}

    def measure(self, images: Images, *, device: torch.device) -> CodeEvaluation:
        """Bits of images and where they go. The model is told the images' labels, unless it never saw any."""

        def told(labels: Tensor) -> Tensor:
            return labels if self.label_drop < 1 else torch.full_like(labels, self.null_label)

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

    def reconstruct(self, images: Tensor, seeds: Tensor) -> Tensor:
        return self.codec.decode(self.codec.encode(images))

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Tensor,
        *,
        callback: Callable[..., None] | None = None,
        known: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """See `GenerativeSystem.sample`. known: codes that stay, as of `autoregression.sample`."""
        settings, steps = self.settings_for(options), self.options(**options)["steps"]
        check_labels(labels, self.null_label)

        def show(step: int, codes: Tensor) -> None:
            if callback is not None:
                images = self.codec.decode(codes.clamp_min(0))
                callback(step, 1 - (step + 1) / steps, images, images)

        return self.codec.decode(self.draw_codes(labels, seeds, settings, known, None if callback is None else show))

    def draw_codes(
        self,
        labels: Tensor,
        seeds: Tensor,
        settings: CodeSampling,
        known: Tensor | None,
        callback: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        """The codes of images, by these settings; known and callback are as of `autoregression.sample`."""
        return sample(self.model, labels, seeds, known=known, callback=callback, **settings.arguments())

    def options(self, **asked: Any) -> dict[str, Any]:
        settings = asdict(self.settings_for(asked))
        return {
            "steps": self.model.order.count,
            **{name: value for name, value in settings.items() if value is not None},
        }

    def settings_for(self, asked: dict[str, Any]) -> CodeSampling:
        """How codes are drawn where these options are asked for; what `options` raises."""
        asked = {name: value for name, value in asked.items() if value is not None}
        names, count = [field.name for field in fields(self.drawing)], self.model.order.count
        if "steps" not in names and (steps := asked.pop("steps", count)) != count:
            raise ValueError(f"steps must be {count}, those of the order in which the codes are drawn, got {steps}")
        check.options(asked, names, "a model of codes")
        wanted = replace(self.drawing, **asked)
        guidance = guidance_after(self.label_drop, wanted.guidance, asked="guidance" in asked)
        return replace(wanted, guidance=guidance, guidance_ramp=wanted.guidance_ramp and guidance not in (0, 1))

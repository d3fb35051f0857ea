"""What is trained when a prior is, under a condition and on a first stage, and how its images are drawn."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..data.buckets import Buckets
from ..data.images import AT_A_TIME, Images, to_range
from ..data.order import Batch
from ..diffusion.prior import DiffusionPrior
from ..diffusion.sampling import Callback
from ..errors import UserError
from ..nn.class_condition import Labels
from ..nn.conditions import AnyCondition, Null
from ..nn.prior import Prior
from ..tokenizers.code_stage import CodeStage
from ..tokenizers.first_stage import FirstStage, Pixels
from ..training.system import Findings, as_lines
from .classes import check_labels, guidance_after
from .generative import GenerativeSystem

logger = logging.getLogger(__name__)

Stage = FirstStage | CodeStage | Pixels
_STRENGTH = 0.5  # of the noise that `rebuild` undoes


class PriorSystem(GenerativeSystem):
    """A prior of the latents or codes of a first stage, or of pixels, under a condition: any goes with any.

    condition: what the prior is told of a label, and how often it is told nothing. A new run measures the spread of its
    latents before it begins.
    """

    def __init__(self, prior: Prior, condition: Labels, first_stage: Stage) -> None:
        super().__init__()
        self.prior, self.condition, self.first_stage = prior, condition, first_stage
        parts = [] if isinstance(first_stage, Pixels) else ["first_stage"]
        self.frozen = (*parts, *(f"condition.{name}" for name in condition.frozen))
        if isinstance(prior, DiffusionPrior):
            self.examined_by = ("bins", "transfer_steps", "learning_rate")
        self._said = False

    @property
    def model(self) -> nn.Module:
        """The prior's network, or the prior itself where it is one."""
        return getattr(self.prior, "model", self.prior)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image's latents, or of its pixels: what is noised and drawn."""
        return self.first_stage.shape

    @property
    def tokens(self) -> int | None:
        grid = getattr(self.model, "grid", None)
        return None if grid is None else math.prod(grid)

    def begin(self, images: Images, *, device: torch.device) -> None:
        self.first_stage.measure(images)

    def source(self, images: Images, *, mirrored: bool) -> Images:
        if isinstance(images, Buckets):
            self._require_shapes(images.shapes, images.format.channels)
        return self.first_stage.source(images, mirrored=mirrored)

    def _require_shapes(self, shapes: Sequence[tuple[int, int]], channels: int) -> None:
        """`UserError` unless the network takes images of all these shapes, or their latents."""
        factor = getattr(self.model, "factor", None)
        if factor is None:
            raise UserError(
                "--buckets needs a network that takes any shape, as those of the recipes ddpm and text-to-image do"
            )
        device = next(self.model.parameters()).device
        for shape in shapes:
            blank = torch.zeros(1, channels, *shape, dtype=torch.uint8, device=device)
            try:
                x = self.first_stage.encode(blank, torch.zeros(1, dtype=torch.int64, device=device))
            except (ValueError, RuntimeError) as error:
                raise UserError(f"--buckets needs a first stage that takes any shape: {error}") from error
            if any(side % factor for side in x.shape[-2:]):
                raise UserError(
                    f"--buckets has pictures of {shape[0]}×{shape[1]} pixels, and the network needs sides of multiples "
                    f"of {factor}, got {x.shape[-2]}×{x.shape[-1]}: try another --size"
                )

    def forward(self, batch: Batch) -> Tensor:
        x = self.first_stage.encode_read(batch.images, batch.seeds)
        return self.prior.loss(x, self.told(batch.labels, batch.seeds), batch.seeds, batch.positions)

    def told(self, labels: Tensor, seeds: Tensor) -> AnyCondition:
        """What the prior is told of labels int64 [B] in training, where their seeds drop some."""
        return self.condition(self.condition.dropped(labels, seeds))

    def after_step(self) -> None:
        self.prior.after_step()

    @torch.no_grad()
    def sample(self, labels: Tensor, seeds: Tensor, *, callback: Callback | None = None, **options: Any) -> Tensor:
        def decoded(step: int, t: float, x: Tensor, denoised: Tensor) -> None:
            assert callback is not None
            shown = self.decode(x)
            callback(step, t, shown, shown if denoised is x else self.decode(denoised))

        return self.decode(self.draw_latents(labels, seeds, callback=None if callback is None else decoded, **options))

    def decode(self, latents: Tensor) -> Tensor:
        """The images of latents, or of codes."""
        return self.first_stage.decode(latents)

    @torch.no_grad()
    def draw_latents(
        self, labels: Tensor, seeds: Tensor, *, callback: Callback | None = None, **options: Any
    ) -> Tensor:
        """What `sample` decodes; the callback is given latents."""
        check_labels(labels, self.condition.null_label)
        told, null = self.condition(labels), self._null(labels)
        return self.prior.draw(self.shape, told, seeds, null=null, callback=callback, **self._guided(options))

    @torch.no_grad()
    def rebuild(self, pixels: Tensor, seeds: Tensor) -> Tensor | None:
        """From latents that half of the way to noise is undone of, without a class."""
        if self.condition.drop == 0 or not isinstance(self.prior, DiffusionPrior):
            return None
        nobody = self.condition(torch.full_like(seeds, self.condition.null_label))
        latents = self.first_stage.encode(to_range(pixels), seeds)
        drawn = self.prior.draw(self.shape, nobody, seeds, initial=(latents, _STRENGTH), guidance=1.0)
        return self.first_stage.decode(drawn)

    def reconstruct(self, images: Tensor, seeds: Tensor) -> Tensor | None:
        stage = self.first_stage
        return None if isinstance(stage, Pixels) else stage.decode(stage.encode(images, seeds))

    def examine(
        self,
        images: Images,
        *,
        device: torch.device,
        bins: int | None = None,
        transfer_steps: int | None = None,
        learning_rate: float = 1e-3,
        **options: Any,
    ) -> Findings:
        """Of diffusion, errors by noise level, and whether the levels are in each other's way, beside `evaluate`.

        bins, transfer_steps: as of `evaluate_diffusion`, by default 8 and 0; learning_rate: of the training, ten times
        that of the tuning.
        """
        if not isinstance(self.prior, DiffusionPrior):
            return super().examine(images, device=device)
        from ..evaluation.diffusion import evaluate_diffusion
        from ..evaluation.diffusion_report import as_text, write

        pixels, labels, _ = images.read(range(len(images)))
        seeds = ops.derive_seeds(0, torch.arange(len(images)), purpose=ops.Purpose.LIKELIHOOD).to(device)
        parts = zip(pixels.to(device).split(AT_A_TIME), seeds.split(AT_A_TIME), strict=True)
        with torch.no_grad():
            x = torch.cat([self.first_stage.encode(some, own) for some, own in parts])
            told = self.condition(labels.to(device))
        found = evaluate_diffusion(
            *(self.prior.model, self.prior.objective, x, told),
            seeds=seeds,
            bins=bins or 8,
            transfer_steps=transfer_steps or 0,
            learning_rate=learning_rate / 10,
        )
        measures = self.evaluate(images, device=device)

        def with_measures(out: Path, head: Mapping[str, Any]) -> None:
            write(found, out, {**head, "measures": measures})

        return Findings([as_text(found), *as_lines(measures)], with_measures)

    def options(self, **asked: Any) -> dict[str, Any]:
        return self.prior.options(**self._guided(asked))

    def _null(self, labels: Tensor) -> Null:
        """What stands for a dropped label, as the prior is told it."""
        null = self.condition.null_label
        told = self.condition(labels.new_full((1,), null))
        return null if isinstance(told, Tensor) else told

    def _guided(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The options with the guidance that the condition's drops leave a choice of."""
        own, drop = self.prior.options()["guidance"], self.condition.drop
        wanted = asked.get("guidance")
        only = guidance_after(drop, own if wanted is None else wanted, asked=wanted is not None)
        if wanted is None and only != own and not self._said:
            self._said = True
            logger.warning("images are drawn with guidance %g, not %g, because label_drop was %g", only, own, drop)
        return {**asked, "guidance": only}

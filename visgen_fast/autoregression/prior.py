"""The prior that is a model of codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor

from .. import _check as check
from ..nn.conditions import AnyCondition, Null
from ..nn.prior import Prior
from .likelihood import nll
from .model import CodeModel
from .sampling import sample


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


class CodePrior(Prior):
    """A model of codes x int64 [B, *grid, Q], and how it draws them. The loss is in nats per code.

    own: which codes the loss is of, bool [*grid, Q]; None for all.
    """

    metric_name = "bits_per_code"
    draws: Callable[..., Tensor] = staticmethod(sample)

    def __init__(self, model: CodeModel, sampler: CodeSampling) -> None:
        super().__init__()
        self.model, self.sampler = model, sampler
        self.own: Tensor | None = None

    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        losses, own = nll(self.model, x, condition), self.own
        return losses.flatten(1).mean(1) if own is None else losses[:, own.to(x.device)].mean(1)

    def draw(
        self,
        shape: tuple[int, ...],
        condition: AnyCondition,
        seeds: Tensor,
        *,
        null: Null = None,
        callback: Callable[..., None] | None = None,
        known: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """See `Prior.draw`; the shape is that of the model's order. known: codes that stay, as of `sample`."""
        steps = self.options(**options)["steps"]

        def show(step: int, codes: Tensor) -> None:
            assert callback is not None
            drawn = codes.clamp_min(0)
            callback(step, 1 - (step + 1) / steps, drawn, drawn)

        watch = None if callback is None else show
        settings = self._settings(options).arguments()
        return self.draws(self.model, condition, seeds, null=null, known=known, callback=watch, **settings)

    def options(self, **asked: Any) -> dict[str, Any]:
        found = {"steps": self.model.order.count, **asdict(self._settings(asked))}
        return {name: value for name, value in found.items() if value is not None}

    def _settings(self, asked: dict[str, Any]) -> CodeSampling:
        asked = {name: value for name, value in asked.items() if value is not None}
        names, count = [field.name for field in fields(self.sampler)], self.model.order.count
        if "steps" not in names and (steps := asked.pop("steps", count)) != count:
            raise ValueError(f"steps must be {count}, those of the order in which the codes are drawn, got {steps}")
        check.options(asked, names, "a model of codes")
        wanted = replace(self.sampler, **asked)
        return replace(wanted, guidance_ramp=wanted.guidance_ramp and wanted.guidance not in (0, 1))

"""The prior of clips: each frame is trained at a noise level of its own, and drawn along a plan of all levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .. import _check as check
from ..nn.conditions import AnyCondition, Null
from .forcing import KINDS, frame_plan, sample_frames
from .guidance import ClassifierFree
from .plan import Plan
from .prior import DiffusionPrior, SamplerSettings
from .sampling import Callback

# The level at which frames that are done are read, as the paper does: clips stay stable the longer they become.
_CONTEXT_TIME = 0.015


@dataclass(frozen=True)
class FrameSamplerSettings(SamplerSettings):
    """How a prior of clips draws. frame_plan: as `kind` of `frame_plan`."""

    frame_plan: Literal["together", "one_by_one", "pyramid"] = "together"


class ForcingPrior(DiffusionPrior):
    """`DiffusionPrior` of clips [B, D, T, …], trained by a `ForcingObjective`; its sampler is `FrameSamplerSettings`.

    Its network takes times [B, T].
    """

    def draw(
        self,
        shape: tuple[int, ...],
        condition: AnyCondition,
        seeds: Tensor,
        *,
        null: Null = None,
        callback: Callback | None = None,
        context: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """See `Prior.draw`. context: the first frames of each clip, where they are given, [B, D, n, …], n below T.

        ValueError for a callback: frames are at several levels.
        """
        if callback is not None:
            raise ValueError("callback must be None for a prior of clips, whose frames are at several levels")
        settings = self._settings(options)
        assert isinstance(settings, FrameSamplerSettings)
        count = 0 if context is None else context.shape[2]
        times = frame_plan(shape[1], settings.steps, settings.frame_plan, context=count)
        return sample_frames(
            self.network,
            self._plan(settings),
            times,
            shape,
            condition,
            seeds,
            context=context,
            context_time=_CONTEXT_TIME,
            guidance=ClassifierFree(settings.guidance, null, interval=settings.interval, rescale=settings.rescale),
        )

    def _plan(self, settings: SamplerSettings) -> Plan:
        assert isinstance(settings, FrameSamplerSettings)
        check.one_of(settings.frame_plan, "frame_plan", KINDS)
        if settings.interval is not None:
            raise ValueError(f"interval must be None where frames are at levels of their own, got {settings.interval}")
        return super()._plan(settings)

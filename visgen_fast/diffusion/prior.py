"""The prior that is a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from .. import _check as check
from ..nn.conditions import AnyCondition, Null
from ..nn.prior import Prior
from .guidance import ClassifierFree
from .guiding import Interval
from .objective import DiffusionObjective
from .plan import Plan, plan
from .sampling import Callback, sample


@dataclass(frozen=True)
class SamplerSettings:
    """How a diffusion prior draws.

    guidance: scale of classifier-free guidance, 1 is off; interval, rescale: of it (`ClassifierFree`). All others are
    arguments of `plan`; None leaves the sampler its own.
    """

    steps: int
    guidance: float
    sampler: str = "euler"
    spacing: str = "linear"
    shift: float | None = None
    order: int | None = None
    eta: float | None = None
    variant: str | None = None
    variance: str | None = None
    churn: float | None = None
    interval: Interval | None = None
    rescale: float = 0.0


_OF_THE_SAMPLER = ("order", "eta", "variant", "variance", "churn")


class DiffusionPrior(Prior):
    """A network `model(x_t, t, condition)`, the objective that trains it, and the sampler that draws with it."""

    def __init__(self, model: nn.Module, objective: DiffusionObjective, sampler: SamplerSettings) -> None:
        super().__init__()
        self.model, self.objective, self.sampler = model, objective, sampler

    def loss(self, x: Tensor, condition: AnyCondition, seeds: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.objective(self.model, x, condition, seeds, positions)

    def draw(
        self,
        shape: tuple[int, ...],
        condition: AnyCondition,
        seeds: Tensor,
        *,
        null: Null = None,
        callback: Callback | None = None,
        initial: tuple[Tensor, float] | None = None,
        **options: Any,
    ) -> Tensor:
        """See `Prior.draw`. initial: samples to begin with, and the share of the way to noise, as of `sample`."""
        settings = self._settings(options)
        guidance = ClassifierFree(settings.guidance, null, interval=settings.interval, rescale=settings.rescale)
        return sample(
            *(self.drawing_network(), self._plan(settings), shape, condition, seeds),
            guidance=guidance,
            callback=callback,
            initial=initial,
        )

    def options(self, **asked: Any) -> dict[str, Any]:
        settings = self._settings(asked)
        self._plan(settings)
        return {name: value for name, value in asdict(settings).items() if value is not None}

    @property
    def network(self) -> Callable[..., Tensor]:
        """The model as a function of (x_t, t, condition), whatever it is told of t."""
        return self.objective.network(self.model)

    def drawing_network(self) -> Callable[..., Tensor]:
        """The same for one call of `draw`, for which a network may remember what it did."""
        return self.network

    def after_step(self) -> None:
        self.objective.after_step()

    def _settings(self, asked: dict[str, Any]) -> SamplerSettings:
        check.options(asked, [field.name for field in fields(self.sampler)], "a diffusion system")
        settings = replace(self.sampler, **{name: value for name, value in asked.items() if value is not None})
        for name in ("interval", "rescale"):
            if asked.get(name) and settings.guidance == 1:
                raise ValueError(f"{name} changes guidance, and there is none: guidance is 1")
        return settings

    def _plan(self, settings: SamplerSettings) -> Plan:
        return plan(
            settings.sampler,
            self.objective.schedule,
            self.objective.prediction,
            steps=settings.steps,
            spacing=settings.spacing,
            shift=settings.shift,
            **{name: value for name in _OF_THE_SAMPLER if (value := getattr(settings, name)) is not None},
        )

"""The training objective of every diffusion and flow model: regress the target of a noised image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from visgen_fast import ops

from ..nn.conditions import AnyCondition, Null
from .guidance import drop_labels
from .predictions import Prediction, as_prediction, coefficients
from .schedules import Schedule
from .times import TimeSampling


@dataclass(frozen=True)
class DiffusionObjective:
    """E‖model(x_t, t, label) − target‖² with x_t = α·x + σ·ε, one loss per sample (Ho et al., 2020, equation 14).

    Time, noise and label drop come from the sample's seed, hence do not change with the batch around it.

    label_drop: how often a label becomes `null_label`, in [0, 1]; what classifier-free guidance needs (0.1 is usual).
    ValueError where label_drop is not in [0, 1] or wants a null_label that is not given.
    """

    schedule: Schedule
    prediction: Prediction | str
    times: TimeSampling
    label_drop: float = 0.0
    null_label: Null = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prediction", as_prediction(self.prediction))
        if not 0 <= self.label_drop <= 1:
            raise ValueError(f"label_drop must lie in [0, 1], got {self.label_drop}")
        if self.label_drop > 0 and self.null_label is None:
            raise ValueError(f"null_label must be given where label_drop is above 0, got label_drop {self.label_drop}")

    def __call__(self, model: Callable[..., Tensor], x: Tensor, labels: AnyCondition, seeds: Tensor) -> Tensor:
        """The mean squared error of each sample, float32 [B].

        x: images [B, ...] in [−1, 1], or uint8 pixels; labels: int64 [B], or any condition (`nn.conditions`);
        seeds: int64 [B]; model(x_t [B, ...], t [B], labels) → [B, ...].
        """
        if self.null_label is not None:
            labels = drop_labels(labels, seeds, self.label_drop, self.null_label)
        t = self.times(seeds)
        x_t, target = ops.diffuse(x, coefficients(self.schedule, self.prediction, t), seeds)
        error = model(x_t, t, labels).float() - target.float()
        return error.square().flatten(1).mean(1)

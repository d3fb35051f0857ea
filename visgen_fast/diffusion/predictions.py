"""What the network predicts, and how one prediction is turned into another.

With x_t = α·x + σ·ε, a prediction is a row (c, d) of target = c·x + d·ε:

    x         (1, 0)    the image
    epsilon   (0, 1)    the noise
    v         (−σ, α)   Salimans and Ho, "Progressive distillation", 2022
    velocity  (−1, 1)   dx_t/dt of rectified flow; for other schedules the same difference, not the derivative
    edm       (σ/(s·r), −α·s/r), r² = σ² + α²·s²: what the raw network F of Karras et al., "Elucidating the design space
              of diffusion-based generative models", 2022, table 1, learns on data of standard deviation s = ½; its
              network reads x_t/r

Any of them gives x and ε back from x_t by the one inverse of [[α, σ], [c, d]]:

    x̂ = (d·x_t − σ·target)/(α·d − σ·c)        ε̂ = (α·target − c·x_t)/(α·d − σ·c)

The denominator is never 0 for v, velocity and edm. Where α = 0, x_t and ε say nothing about x; where σ = 0, x_t and x
say nothing about ε. There both levels are held at `SMALLEST_LEVEL`, so that a conversion is finite for finite inputs
and never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .schedules import Schedule

SMALLEST_LEVEL = 1e-8
"""The floor of α and σ as denominators (λ = ±36.8): below every level in use, and no float32 quotient overflows."""


@dataclass(frozen=True)
class Prediction:
    """A kind of target, as data: functions of the levels α and σ, elementwise and differentiable.

    weights: (c, d) of target = c·x + d·ε. input_scale: what x_t is multiplied by before the network reads it; None is
    1. A prediction of one's own is used wherever a name is: `Prediction("score", lambda a, s: (0 * a, -1 / s))`.
    """

    name: str
    weights: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    input_scale: Callable[[Tensor, Tensor], Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which cannot store the functions of those that have names."""
        if PREDICTIONS.get(self.name) is self:
            return as_prediction, (self.name,)
        return Prediction, (self.name, self.weights, self.input_scale)

    def scale_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network reads in the place of x_t; levels as of `to_x`."""
        if self.input_scale is None:
            return x_t
        return x_t * _per_sample(self.input_scale(alpha, sigma), x_t).to(x_t.dtype)


def edm(data_std: float = 0.5) -> Prediction:
    """EDM's preconditioning for data of this standard deviation. ValueError unless it is positive and finite."""
    if not data_std > 0:
        raise ValueError(f"data_std must be positive, got {data_std}")
    if math.isinf(data_std):
        raise ValueError(f"data_std must be positive and finite, got {data_std}")
    of_data = _Preconditioning(data_std)
    return Prediction("edm", of_data.weights, of_data.input_scale)


@dataclass(frozen=True)
class _Preconditioning:
    data_std: float

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 / torch.hypot(sigma, self.data_std * alpha)

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.hypot(sigma, self.data_std * alpha)
        return sigma / (self.data_std * norm), -self.data_std * alpha / norm


PREDICTIONS: dict[str, Prediction] = {
    prediction.name: prediction
    for prediction in (
        Prediction("x", lambda alpha, sigma: (torch.ones_like(alpha), torch.zeros_like(alpha))),
        Prediction("epsilon", lambda alpha, sigma: (torch.zeros_like(alpha), torch.ones_like(alpha))),
        Prediction("v", lambda alpha, sigma: (-sigma, alpha)),
        Prediction("velocity", lambda alpha, sigma: (-torch.ones_like(alpha), torch.ones_like(alpha))),
        edm(),
    )
}
"""The predictions that have names."""


def as_prediction(prediction: Prediction | str) -> Prediction:
    """The prediction of this name, or the one given. ValueError, which lists the names, for any other."""
    if isinstance(prediction, Prediction):
        return prediction
    if not isinstance(prediction, str) or prediction not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")
    return PREDICTIONS[prediction]


def coefficients(schedule: Schedule, prediction: Prediction | str, t: Tensor) -> Tensor:
    """Rows (a, b, c, d) for `ops.diffuse`: a·x + b·ε is what the network reads, c·x + d·ε its target.

    (a, b) is (α, σ), times the prediction's input scale where it has one.

    t: times in [0, 1], any shape [...]. Returns float32 [..., 4], differentiable in t and in a learned schedule.
    """
    prediction = as_prediction(prediction)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    read = [prediction.scale_input(level, alpha, sigma) for level in (alpha, sigma)]
    return torch.stack((*read, *prediction.weights(alpha, sigma)), dim=-1).float()


def to_x(value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str) -> Tensor:
    """The image x̂ that a prediction `value` of kind `source` implies at x_t.

    value, x_t: [B, ...] of any float dtype. alpha, sigma: [B], or any shape that broadcasts against x_t (levels per
    frame or token). Returns float32, or float64 where value or x_t is.
    """
    return _inverted(value, x_t, alpha, sigma, source)[0]


def to_noise(value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str) -> Tensor:
    """The noise ε̂ that a prediction `value` of kind `source` implies at x_t; arguments and result as of `to_x`."""
    return _inverted(value, x_t, alpha, sigma, source)[1]


def convert(
    value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str, target: Prediction | str
) -> Tensor:
    """A prediction of kind `source` as one of kind `target`; arguments and result as of `to_x`."""
    source, target = as_prediction(source), as_prediction(target)
    if source == target:
        return value.to(_arithmetic(value, x_t))
    x, noise = _inverted(value, x_t, alpha, sigma, source)
    c, d = target.weights(*(_per_sample(level, x).to(x.dtype) for level in (alpha, sigma)))
    return c * x + d * noise


def check_samplable(schedule: Schedule, prediction: Prediction | str) -> None:
    """ValueError where sampling would have to read the image from ε at a time when x_t holds nothing of it.

    Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023, section 3.3.
    """
    if is_singular(schedule, prediction):
        raise ValueError(
            f"prediction {as_prediction(prediction).name!r} cannot be sampled with {schedule}, whose signal is exactly "
            "0 at t = 1: expected 'x', 'v' or 'velocity'"
        )


def is_singular(schedule: Schedule, prediction: Prediction | str) -> bool:
    """Whether the prediction says nothing of the image at t = 1: ε does not, where the signal is exactly 0 there."""
    if isinstance(schedule, nn.Module) and any(weight.is_meta for weight in schedule.parameters()):
        return False  # it has no numbers yet
    start = torch.ones((), dtype=torch.float64, device="cpu")
    alpha, sigma = schedule.alpha(start), schedule.sigma(start)
    c, d = as_prediction(prediction).weights(alpha, sigma)
    return bool(alpha * d == sigma * c)


def log_error(prediction: Prediction | str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """ln of how large an error of this prediction is for an error of 1 in ε, at the same x_t: ln |α·d − σ·c|/α.

    Levels below `SMALLEST_LEVEL` count as that much, so that this is finite.
    """
    c, d = as_prediction(prediction).weights(alpha, sigma)
    return (alpha * d - sigma * c).abs().clamp_min(SMALLEST_LEVEL).log() - alpha.clamp_min(SMALLEST_LEVEL).log()


def _inverted(
    value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str
) -> tuple[Tensor, Tensor]:
    """(x̂, ε̂), in the dtype of the arithmetic."""
    prediction, dtype = as_prediction(source), _arithmetic(value, x_t)
    alpha, sigma = (_per_sample(level, x_t).to(dtype) for level in (alpha, sigma))
    c, d = prediction.weights(alpha, sigma)
    singular = (alpha * d - sigma * c).abs() < SMALLEST_LEVEL
    alpha, sigma = (torch.where(singular, level.clamp_min(SMALLEST_LEVEL), level) for level in (alpha, sigma))
    c, d = prediction.weights(alpha, sigma)
    determinant = alpha * d - sigma * c
    value, x_t = value.to(dtype), x_t.to(dtype)
    x = (d / determinant) * x_t - (sigma / determinant) * value
    return x, (alpha / determinant) * value - (c / determinant) * x_t


def _arithmetic(value: Tensor, x_t: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (value.dtype, x_t.dtype) else torch.float32


def _per_sample(level: Tensor, x_t: Tensor) -> Tensor:
    """A level [B] shaped to multiply x_t; any other shape as it is."""
    return level.view(-1, *[1] * (x_t.dim() - 1)) if level.dim() == 1 else level

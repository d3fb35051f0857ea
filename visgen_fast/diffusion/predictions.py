"""What the network predicts, and how one prediction is turned into another.

With x_t = α·x + σ·ε the choices are

    x         the image
    epsilon   the noise ε
    v         α·ε − σ·x   (Salimans and Ho, "Progressive distillation", 2022)
    velocity  ε − x       (dx_t/dt of rectified flow; for other schedules the same difference, not the derivative)

Each is a row (c, d) of target = c·x + d·ε, and any of them gives x and ε back from x_t:

    from       x                        ε
    x          x                        (x_t − α·x)/σ
    epsilon    (x_t − σ·ε)/α            ε
    v          (α·x_t − σ·v)/(α² + σ²)  (σ·x_t + α·v)/(α² + σ²)
    velocity   (x_t − σ·u)/(α + σ)      (x_t + α·u)/(α + σ)

v and velocity are never singular. Where α = 0, x_t and ε say nothing about x; where σ = 0, x_t and x say nothing about
ε. There the denominator is held at `SMALLEST_LEVEL`, so a conversion is finite for finite inputs and never NaN.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from .schedules import Schedule

SMALLEST_LEVEL = 1e-8
"""The floor of α and σ as denominators (λ = ±36.8): below every level in use, and no float32 quotient overflows."""


class Prediction(str, Enum):
    """What the network predicts: "x", "epsilon", "v" or "velocity". ValueError for any other name."""

    X = "x"
    EPSILON = "epsilon"
    V = "v"
    VELOCITY = "velocity"

    @classmethod
    def _missing_(cls, value: object) -> Prediction:
        raise ValueError(f"prediction must be one of {', '.join(p.value for p in cls)}; got {value!r}")

    def weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(c, d) of target = c·x + d·ε at these levels, each of their shape."""
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        return {
            Prediction.X: (one, zero),
            Prediction.EPSILON: (zero, one),
            Prediction.V: (-sigma, alpha),
            Prediction.VELOCITY: (-one, one),
        }[self]


def coefficients(schedule: Schedule, prediction: Prediction | str, t: Tensor) -> Tensor:
    """Rows (a, b, c, d) of x_t = a·x + b·ε, target = c·x + d·ε for `ops.diffuse`.

    t: times in [0, 1], any shape [...]. Returns float32 [..., 4], differentiable in t and in a learned schedule.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return torch.stack((alpha, sigma, *Prediction(prediction).weights(alpha, sigma)), dim=-1).float()


def to_x(value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str) -> Tensor:
    """The image x̂ that a prediction `value` of kind `source` implies at x_t.

    value, x_t: [B, ...] of any float dtype. alpha, sigma: [B], or any shape that broadcasts against x_t (levels per
    frame or token). Returns float32, or float64 where value or x_t is.
    """
    source = Prediction(source)
    value, x_t, alpha, sigma = _aligned(value, x_t, alpha, sigma)
    if source is Prediction.X:
        return value
    if source is Prediction.EPSILON:
        return (x_t - sigma * value) / alpha.clamp_min(SMALLEST_LEVEL)
    if source is Prediction.V:
        return (alpha * x_t - sigma * value) / (alpha**2 + sigma**2)
    return (x_t - sigma * value) / (alpha + sigma)


def to_noise(value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str) -> Tensor:
    """The noise ε̂ that a prediction `value` of kind `source` implies at x_t; arguments and result as of `to_x`."""
    source = Prediction(source)
    value, x_t, alpha, sigma = _aligned(value, x_t, alpha, sigma)
    if source is Prediction.X:
        return (x_t - alpha * value) / sigma.clamp_min(SMALLEST_LEVEL)
    if source is Prediction.EPSILON:
        return value
    if source is Prediction.V:
        return (sigma * x_t + alpha * value) / (alpha**2 + sigma**2)
    return (x_t + alpha * value) / (alpha + sigma)


def convert(
    value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction | str, target: Prediction | str
) -> Tensor:
    """A prediction of kind `source` as one of kind `target`; arguments and result as of `to_x`."""
    source, target = Prediction(source), Prediction(target)
    value, x_t, alpha, sigma = _aligned(value, x_t, alpha, sigma)
    if source is target:
        return value
    c, d = target.weights(alpha, sigma)
    return c * to_x(value, x_t, alpha, sigma, source) + d * to_noise(value, x_t, alpha, sigma, source)


def check_samplable(schedule: Schedule, prediction: Prediction | str) -> None:
    """ValueError where sampling would have to read the image from ε at a time when x_t holds nothing of it.

    Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2023, section 3.3.
    """
    if Prediction(prediction) is Prediction.EPSILON and schedule.zero_terminal_snr:
        raise ValueError(
            f"prediction 'epsilon' cannot be sampled with {schedule}, whose signal is exactly 0 at t = 1: "
            "expected 'x', 'v' or 'velocity'"
        )


def _aligned(value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All four in the dtype of the arithmetic, one level per sample shaped to multiply x_t."""
    dtype = torch.float64 if torch.float64 in (value.dtype, x_t.dtype) else torch.float32
    per_sample = (-1, *[1] * (x_t.dim() - 1))
    alpha, sigma = (level.view(per_sample) if level.dim() == 1 else level for level in (alpha, sigma))
    return value.to(dtype), x_t.to(dtype), alpha.to(dtype), sigma.to(dtype)

"""Sampling: a solver is a table of coefficients, and one loop executes any table.

A row of a table is one step from time t to the next,

    (t, α, σ, p, q):   x̂ = denoise(x, t),   x ← p·x + q·x̂

so a solver is a short function that computes its rows in float64, and the state never sees a singular formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from visgen_fast import ops

from ..nn.conditions import AnyCondition, Null, apply_to_parts
from .guidance import guided
from .predictions import Prediction, as_prediction, check_samplable, to_x
from .schedules import Schedule


def step_times(steps: int) -> Tensor:
    """The times 1, 1 − 1/steps, …, 1/steps, 0: float64 [steps + 1]. ValueError unless steps ≥ 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.arange(steps, -1, -1, dtype=torch.float64) / steps


def euler_table(schedule: Schedule, times: Tensor) -> Tensor:
    """The first-order step x_s = (σ_s/σ_t)·x_t + (α_s − α_t·σ_s/σ_t)·x̂ between successive times t > s.

    It is exact for a constant x̂ and finite where α_t = 0. With rectified flow it is Euler's x_t + (s − t)·u; with a
    variance-preserving schedule it is DDIM (Song et al., 2021, equation 12, η = 0).

    times: decreasing in [0, 1], [T + 1]. Returns float64 rows (t, α_t, σ_t, p, q) [T, 5].
    """
    times = times.double()
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    p = sigma[1:] / sigma[:-1]
    return torch.stack((times[:-1], alpha[:-1], sigma[:-1], p, alpha[1:] - alpha[:-1] * p), dim=1)


def execute(
    table: Tensor,
    denoise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    callback: Callable[[int, float, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Take the state x [B, ...] through every row of a table; differentiable.

    denoise(x, t, alpha, sigma) gives x̂ for t, α, σ [B] in x's dtype; callback(step, t, x, x̂) sees each step's input.
    """
    for step, (t, alpha, sigma, p, q) in enumerate(table.tolist()):
        levels = (torch.full((len(x),), level, dtype=x.dtype, device=x.device) for level in (t, alpha, sigma))
        denoised = denoise(x, *levels)
        if callback is not None:
            callback(step, t, x, denoised)
        x = p * x + q * denoised
    return x


@torch.no_grad()
def sample(
    model: Callable[..., Tensor],
    shape: Sequence[int],
    labels: AnyCondition,
    seeds: Tensor,
    *,
    schedule: Schedule,
    prediction: Prediction | str,
    steps: int = 50,
    guidance: float = 1.0,
    null_label: Null = None,
    callback: Callable[[int, float, Tensor, Tensor], None] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw images by Euler's method from noise, t = 1, to data, t = 0.

    An image depends on its seed and its label alone, never on the batch it is drawn in.

    model(x_t, t [B], labels) → [B, *shape], predicting `prediction` (put it into eval mode first).
    shape: of one image. labels: int64 [B], or any condition (`nn.conditions`). seeds: int64 [B]. Both are moved
    to `device` (default: where the seeds are).
    guidance: the scale of classifier-free guidance, see `guided`; 1 is none. callback: see `execute`.
    dtype: of what the network is given; the state itself is float32, and float64 for a float64 dtype.

    Returns [B, *shape] in the state's dtype. ValueError: steps below 1, labels and seeds of different lengths, guidance
    without `null_label`, or a prediction that this schedule cannot be sampled with (`check_samplable`).
    """
    check_samplable(schedule, prediction)
    prediction = as_prediction(prediction)
    if isinstance(labels, Tensor) and labels.shape != seeds.shape:
        raise ValueError(f"labels and seeds must both have shape [B], got {list(labels.shape)} and {list(seeds.shape)}")
    device = seeds.device if device is None else device
    labels, seeds = apply_to_parts(labels, lambda part: part.to(device)), seeds.to(device)

    def denoise(x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        read = prediction.scale_input(x, alpha, sigma).to(dtype)
        value = guided(model, read, t, labels, scale=guidance, null_label=null_label)
        return to_x(value, x, alpha, sigma, prediction)

    times = step_times(steps)
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    noise = ops.gaussian(seeds, shape, stream=ops.Purpose.INITIAL_STATE.stream(), dtype=state_dtype)
    return execute(euler_table(schedule, times), denoise, noise * schedule.sigma(times[0]).item(), callback)

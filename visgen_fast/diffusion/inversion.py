"""From images to the noise that they are drawn from, and ways between two noises."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _check as check
from ..nn.conditions import AnyCondition
from .guiding import Guidance, as_numbers
from .plan import Plan, check_plan
from .sampling import Callback, sample

_FLAT = 1e-4  # radians: nearer to the ends, the sine of an angle is no denominator


def invert(
    model: Callable[..., Tensor],
    plan: Plan,
    images: Tensor,
    labels: AnyCondition,
    *,
    guidance: Guidance | None = None,
    callback: Callback | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The noise from which images are drawn: along a plan whose times rise, for example those of another, reversed.

        way = [1.0, …, 0.01]
        noise = invert(model, plan("heun", schedule, "v", times=way[::-1]), images, labels)
        again = sample(model, plan("heun", schedule, "v", times=way), shape, labels, seeds, noise=noise)

    Args:
        model, labels, guidance, callback, dtype: as of `sample`.
        plan: of a sampler without noise. Its times begin a little above 0. dpm++2s and dpm2 come back nearest to the
            images: their steps are in ln(σ/α). Those of adams-bashforth are in σ/α, which grows so fast towards pure
            noise that its polynomials run away: let its times end at 0.95, say.
        images: [B, ...] in the model's range.

    Returns:
        [B, ...], the state at the plan's end over its noise level σ: `noise` of `sample` by a plan that begins there.

    Raises:
        ValueError: a plan whose times fall, and what `sample` raises.

    Source: Song et al., "Denoising diffusion implicit models", 2021, section 5.4, for any sampler.
    """
    check_plan(plan)
    check.floats(images, "images")
    if images.dim() == 0:
        raise ValueError("images must have shape [B, ...], got []")
    if plan.ends[0].time > plan.ends[-1].time:
        raise ValueError(
            f"the times of an inversion must rise, got {plan.ends[0].time:g} to {plan.ends[-1].time:g}: reverse them"
        )
    seeds = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    state = sample(
        model,
        plan,
        images.shape[1:],
        labels,
        seeds,
        guidance=guidance,
        initial=(images, 1.0),
        callback=callback,
        dtype=dtype,
    )
    return state / plan.ends[-1].sigma


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """From each sample of `a` to that of `b` along a great circle: what is between two noises is as likely as they are.

    The angle is that between the two samples; lengths go from the one to the other. Where a sample is 0, or both point
    the same way or into opposite directions, no circle is told apart, and the way is straight.

    Args:
        a, b: [B, ...] of one shape and floating-point type.
        weight: a number, or [B]: 0 is a, 1 is b; others go beyond.

    Returns:
        [B, ...] in their type; arithmetic is in float64.

    Raises:
        ValueError: shapes that don't fit.

    Source: Shoemake, "Animating rotation with quaternion curves", 1985.
    """
    check.floats(a, "a")
    check.floats(b, "b")
    if a.shape != b.shape or a.dim() == 0:
        raise ValueError(f"a and b must have one shape [B, ...], got {list(a.shape)} and {list(b.shape)}")
    weights = as_numbers(weight, a.device, "weight")
    if weights.shape not in ((), a.shape[:1]):
        raise ValueError(f"weight must be a number or [{len(a)}], got a tensor of shape {list(weights.shape)}")
    first, second = (some.double().reshape(len(a), -1) for some in (a, b))
    # Of unit vectors; more exact than the arc cosine where the angle is small or near π.
    ahead, behind = ((_unit(first) + sign * _unit(second)).norm(dim=1) for sign in (1, -1))
    angle = 2 * torch.atan2(behind, ahead)
    straight = (angle < _FLAT) | (angle > torch.pi - _FLAT) | (first.norm(dim=1) == 0) | (second.norm(dim=1) == 0)
    sine = torch.where(straight, 1, angle.sin())
    of_a = torch.where(straight, 1 - weights, ((1 - weights) * angle).sin() / sine)
    of_b = torch.where(straight, weights, (weights * angle).sin() / sine)
    return (of_a[:, None] * first + of_b[:, None] * second).view(a.shape).to(a.dtype)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)

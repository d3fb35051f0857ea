"""The weighted error of a prediction at several resolutions, in one pass over memory: the family `multiscale`.

The pass that adds up the loss writes the gradient too; `denoising_loss` makes its target in that pass and never stores
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ..reference.multiscale import PENALTIES, REDUCTIONS, per_sample, weights_of_scales
from .diffuse import check_diffusion

__all__ = ["denoising_loss", "multiscale_loss"]


def multiscale_loss(
    pred: Tensor,
    target: Tensor,
    *,
    scales: Sequence[int] = (1,),
    scale_weights: str | Sequence[float] = "mean",
    weight: Tensor | None = None,
    penalty: str = "l2",
    penalty_scale: float = 1.0,
    reduction: str = "mean",
    terms: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """How far a prediction is from its target at several resolutions.

    With the residual r = pred − target, and r̄ its averages over windows of s×s, the loss of a sample is

        L = Σ_s ω_s · mean of w̄·ρ(r̄) over channels and windows

    A window at the lower or the right end may be smaller than s×s, and averages what it has; a scale beyond the picture
    is one window. Each window counts alike.

    Args:
        pred: [B, …] with up to 9 dimensions, windows lie in the last two (of a video: in its frames); float32,
            bfloat16, float16 or float64.
        target: of pred's shape, any of these types.
        scales: the sizes s of windows, different integers of at least 1; (1,), the plain loss, is all that a pred of
            fewer than four dimensions has.
        scale_weights: ω_s: "mean", one over the number of scales; "paper", s / √(height·width), which is one over the
            resolution that is left; or a number for each scale.
        weight: w: [B], or of a shape that broadcasts to pred's (a channel, a token, a mask); floating-point or bool.
            Where it varies inside a window, r̄ = Σwr / Σw and w̄ = Σw / n over its n elements. What has the weight 0
            influences nothing, NaN included, and gets no gradient. Means divide by counts, never by Σw.
        penalty: ρ(r): "l2", r²; "l1", |r|; or "pseudo_huber", √(r² + c²) − c.
        penalty_scale: c, positive, in units of pred.
        reduction: over samples: "mean", "sum", or "none" for a loss each.
        terms: also return the means of each scale before ω, without a gradient: for the log, at no cost.

    Returns:
        The loss, [] or [B]; with `terms` (loss, terms [B, scales]). float32, float64 where pred or target is. Gradients
        flow into pred, target and weight.

    Raises:
        TypeError, ValueError: an argument does not fit the above.

    Source: Hoogeboom et al., "Simple diffusion", 2023, "Multiscale training loss"; Song and Dhariwal, "Improved
    techniques for training consistency models", 2023, eq. 8 (pseudo-Huber).
    """
    check.floats(pred, "pred")
    check.floats(target, "target")
    _check_same(target, "target", pred)
    options: dict[str, Any] = {"scales": scales, "scale_weights": scale_weights, "weight": weight, "penalty": penalty}
    options |= {"penalty_scale": penalty_scale, "reduction": reduction, "terms": terms}
    _check_loss(pred, **options)
    return reference.multiscale_loss(pred, target, **options)


def denoising_loss(
    pred: Tensor,
    x: Tensor,
    coefficients: Tensor,
    seeds: Tensor | None = None,
    *,
    endpoint: Tensor | None = None,
    noise: Tensor | None = None,
    stream: int = 0,
    scales: Sequence[int] = (1,),
    scale_weights: str | Sequence[float] = "mean",
    weight: Tensor | None = None,
    penalty: str = "l2",
    penalty_scale: float = 1.0,
    reduction: str = "mean",
    terms: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`multiscale_loss` of a prediction of the target that `diffuse` makes of the same x, coefficients and seeds.

    The target is never stored: it is made again from x and the seeds. x_t, which the network needs, is `add_noise` of
    the same arguments.

    Args:
        pred: of x's shape, floating-point; may have another type than x, and be a slice of channels.
        x, coefficients, seeds, endpoint, noise, stream: as in `diffuse`.
        scales, scale_weights, weight, penalty, penalty_scale, reduction, terms: as in `multiscale_loss`.

    Returns:
        As `multiscale_loss`. Gradients flow into pred, x, coefficients, endpoint, noise and weight.

    Raises:
        TypeError, ValueError: an argument does not fit the above.
    """
    check.floats(pred, "pred")
    check_diffusion(x, coefficients, seeds, endpoint, noise, stream)
    _check_same(x, "x", pred)
    options: dict[str, Any] = {"scales": scales, "scale_weights": scale_weights, "weight": weight, "penalty": penalty}
    options |= {"penalty_scale": penalty_scale, "reduction": reduction, "terms": terms}
    _check_loss(pred, **options)
    options |= {"endpoint": endpoint, "noise": noise, "stream": stream}
    return reference.denoising_loss(pred, x, coefficients, seeds, **options)


def _check_same(value: Tensor, name: str, pred: Tensor) -> None:
    if value.shape != pred.shape:
        raise ValueError(f"{name} must have the shape of pred, {list(pred.shape)}, got {list(value.shape)}")
    check.device(value, name, pred.device, "pred")


def _check_loss(pred, *, scales, scale_weights, weight, penalty, penalty_scale, reduction, terms) -> None:
    if not 1 <= pred.dim() <= 9:
        raise ValueError(f"pred must have 1 to 9 dimensions, the first of them the batch, got {pred.dim()}")
    factors = check.integers(scales, "scales", least=1)
    if not factors:
        raise ValueError("scales must hold at least one scale, got none")
    if len(set(factors)) != len(factors):
        raise ValueError(f"scales must be different, got {factors}")
    if pred.dim() < 4 and factors != [1]:
        raise ValueError(f"scales must be (1,) where pred has fewer than four dimensions, got {factors}")
    _check_scale_weights(scale_weights, len(factors), pred)
    check.one_of(penalty, "penalty", tuple(PENALTIES))
    check.number(penalty_scale, "penalty_scale", positive=True)
    check.one_of(reduction, "reduction", tuple(REDUCTIONS))
    if weight is not None:
        _check_weight(weight, pred)


def _check_scale_weights(scale_weights, scales: int, pred: Tensor) -> None:
    if isinstance(scale_weights, str):
        check.one_of(scale_weights, "scale_weights", ("mean", "paper"))
        if scale_weights == "paper" and pred.dim() < 4:
            raise ValueError(f'scale_weights may be "paper" where pred has four dimensions or more, got {pred.dim()}')
        return
    try:
        weights = [*scale_weights]
    except TypeError:
        raise TypeError(
            f'scale_weights must be "mean", "paper" or a sequence of numbers, got {type(scale_weights).__name__}'
        ) from None
    for weight in weights:
        check.number(weight, "scale_weights")
    if len(weights) != scales:
        raise ValueError(f"scale_weights must have a number for each of the {scales} scales, got {len(weights)}")


def _check_weight(weight: Any, pred: Tensor) -> None:
    check.tensor(weight, "weight")
    if weight.dtype != torch.bool:
        check.floats(weight, "weight")
    check.device(weight, "weight", pred.device, "pred")
    shape = list(per_sample(weight, pred.dim()).shape)
    shape = [1] * (pred.dim() - len(shape)) + shape
    if len(shape) > pred.dim() or any(s not in (1, n) for s, n in zip(shape, pred.shape, strict=True)):
        raise ValueError(
            f"weight must be [{pred.shape[0]}] or broadcastable to {list(pred.shape)}, got {list(weight.shape)}"
        )

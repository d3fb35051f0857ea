"""The weighted error of a prediction at several resolutions, in one pass over memory: the family `multiscale`.

The pass that adds up the loss writes the gradient too; `denoising_loss` makes its target in that pass and never stores
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _check as check
from .. import reference
from ..reference.diffuse import from_pixels
from ..reference.multiscale import PENALTIES, REDUCTIONS, per_sample, weights_of_scales
from ._derivatives import differentiable, gate, register_fake, run
from .diffuse import check_diffusion
from .diffuse import definition as definition_of_diffuse

_MOST_SCALES = 16
_SQUARES = 1e-18, 1e18  # penalty scales whose squares are float32 numbers
_PENALTIES, _REDUCTIONS = tuple(PENALTIES), tuple(REDUCTIONS)

__all__ = ["denoising_loss", "multiscale_loss"]

runs_reference = gate("multiscale")


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
        scales: the sizes s of windows, up to 16 different integers of at least 1; (1,), the plain loss, is all that a
            pred of fewer than four dimensions has.
        scale_weights: ω_s: "mean", one over the number of scales; "paper", s / √(height·width), which is one over the
            resolution that is left; or a number for each scale.
        weight: w: [B], or of a shape that broadcasts to pred's (a channel, a token, a mask); floating-point or bool.
            Where it varies inside a window, r̄ = Σwr / Σw and w̄ = Σw / n over its n elements. What has the weight 0
            influences nothing, NaN included, and gets no gradient. Means divide by counts, never by Σw.
        penalty: ρ(r): "l2", r²; "l1", |r|; or "pseudo_huber", √(r² + c²) − c.
        penalty_scale: c, in [1e-18, 1e18], in units of pred.
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
    options: dict[str, Any] = {"scales": check.integers(scales, "scales", least=1)}
    options |= {"scale_weights": _listed(scale_weights), "weight": weight, "penalty": penalty}
    options |= {"penalty_scale": penalty_scale, "reduction": reduction, "terms": terms}
    weight, *how, of_samples = _loss_arguments(pred, **options)
    if not pred.numel() or runs_reference(pred, target, weight):  # the mean of nothing is not a number
        return reference.multiscale_loss(pred, target, **options)
    dtype = _gradient_dtype(pred, target)

    def loss_of(weight: Tensor | None, of_samples: int) -> tuple[Tensor, ...]:
        return run("multiscale_loss", pred, target, weight, *how, of_samples, dtype)

    return _weighted(loss_of, weight, of_samples, terms)


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
    seeds, rows = check_diffusion(x, coefficients, seeds, endpoint, noise, stream)
    _check_same(x, "x", pred)
    options: dict[str, Any] = {"scales": check.integers(scales, "scales", least=1)}
    options |= {"scale_weights": _listed(scale_weights), "weight": weight, "penalty": penalty}
    options |= {"penalty_scale": penalty_scale, "reduction": reduction, "terms": terms}
    weight, *how, of_samples = _loss_arguments(pred, **options)
    if not pred.numel() or runs_reference(pred, x, coefficients, seeds, endpoint, noise, weight):
        options |= {"endpoint": endpoint, "noise": noise, "stream": stream}
        return reference.denoising_loss(pred, x, coefficients, seeds, **options)
    if pred.dtype == torch.float64 and x.dtype != torch.float64:
        x, rows = from_pixels(x, torch.float64), rows.double()
    dtype = _gradient_dtype(pred, x, coefficients, endpoint, noise)

    def loss_of(weight: Tensor | None, of_samples: int) -> tuple[Tensor, ...]:
        inputs = pred, x, rows, seeds, endpoint, noise, weight, stream
        return run("denoising_loss", *inputs, *how, of_samples, dtype)

    return _weighted(loss_of, weight, of_samples, terms)


def _weighted(
    loss_of: Callable[[Tensor | None, int], tuple[Tensor, ...]], weight: Tensor | None, of_samples: int, terms: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """The loss, from the operation as a function of weight and reduction.

    Where the weights of whole samples want a gradient, it is their losses: these are weighed outside of the operation,
    which only learns who counts at all.
    """
    if weight is None or not (torch.is_grad_enabled() and weight.requires_grad and weight.numel() == weight.shape[0]):
        loss, of_scales, _ = loss_of(weight, of_samples)
    else:
        counts = (weight.detach() != 0).to(weight.dtype)
        losses, of_scales, _ = loss_of(counts, _REDUCTIONS.index("none"))
        factors = weight.flatten().to(losses.dtype)
        loss = REDUCTIONS[_REDUCTIONS[of_samples]](losses * factors)
        of_scales = of_scales.detach() * factors.detach()[:, None]
    return (loss, of_scales.detach()) if terms else loss


def _check_same(value: Tensor, name: str, pred: Tensor) -> None:
    if value.shape != pred.shape:
        raise ValueError(f"{name} must have the shape of pred, {list(pred.shape)}, got {list(value.shape)}")
    check.device(value, name, pred.device, "pred")


def _loss_arguments(pred, *, scales, scale_weights, weight, penalty, penalty_scale, reduction, terms) -> tuple:
    """What describes the loss, as kernels read it: weight, scales, scale_weights, penalty, penalty_scale, reduction."""
    if not 1 <= pred.dim() <= 9:
        raise ValueError(f"pred must have 1 to 9 dimensions, the first of them the batch, got {pred.dim()}")
    if not 1 <= len(scales) <= _MOST_SCALES:
        raise ValueError(f"scales must hold 1 to {_MOST_SCALES} scales, got {len(scales)}")
    if len(set(scales)) != len(scales):
        raise ValueError(f"scales must be different, got {scales}")
    if pred.dim() < 4 and scales != [1]:
        raise ValueError(f"scales must be (1,) where pred has fewer than four dimensions, got {scales}")
    _check_scale_weights(scale_weights, len(scales), pred)
    number_of_penalty = check.one_of(penalty, "penalty", _PENALTIES)
    check.number(penalty_scale, "penalty_scale", positive=True)
    check.real(penalty_scale, "penalty_scale", *_SQUARES)
    number_of_reduction = check.one_of(reduction, "reduction", _REDUCTIONS)
    if weight is not None:
        weight = _checked_weight(weight, pred)
    omega = [] if scale_weights == "paper" else weights_of_scales(scales, scale_weights, pred.shape)
    return weight, scales, omega, number_of_penalty, float(penalty_scale), number_of_reduction


def _listed(scale_weights: Any) -> str | list[Any]:
    if isinstance(scale_weights, str):
        return scale_weights
    try:
        return [*scale_weights]
    except TypeError:
        raise TypeError(
            f'scale_weights must be "mean", "paper" or a sequence of numbers, got {type(scale_weights).__name__}'
        ) from None


def _check_scale_weights(scale_weights: str | list[Any], scales: int, pred: Tensor) -> None:
    if isinstance(scale_weights, str):
        check.one_of(scale_weights, "scale_weights", ("mean", "paper"))
        if scale_weights == "paper" and pred.dim() < 4:
            raise ValueError(f'scale_weights may be "paper" where pred has four dimensions or more, got {pred.dim()}')
        return
    for weight in scale_weights:
        check.number(weight, "scale_weights")
    if len(scale_weights) != scales:
        raise ValueError(f"scale_weights must have a number for each of the {scales} scales, got {len(scale_weights)}")


def _checked_weight(weight: Any, pred: Tensor) -> Tensor:
    """With as many dimensions as pred."""
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
    return weight.reshape(shape) if weight.is_floating_point() else weight.reshape(shape).float()


def _gradient_dtype(pred: Tensor, *others: Tensor | None) -> torch.dtype | None:
    """Of the gradient that the forward pass makes, None where nothing asks for it. Whatever else than pred is
    differentiated takes it as precise as the arithmetic; float16 could not hold what has not been scaled yet."""
    if not torch.is_grad_enabled():
        return None
    others_too = any(other is not None and other.requires_grad for other in others)
    if others_too or (pred.requires_grad and pred.dtype == torch.float16):
        types = [t.dtype for t in (pred, *others) if t is not None]
        return torch.float64 if torch.float64 in types[:2] else torch.float32
    return pred.dtype if pred.requires_grad else None


def _definition(
    pred, target, weight, gradient, scales, scale_weights, penalty, penalty_scale, reduction
) -> tuple[Tensor, ...]:
    """`multiscale_loss` in plain PyTorch, from what is kept for its backward."""
    loss = reference.multiscale_loss(
        pred, target, scales=scales, scale_weights=scale_weights or "paper", weight=weight,
        penalty=_PENALTIES[penalty], penalty_scale=penalty_scale, reduction=_REDUCTIONS[reduction],
    )  # fmt: skip
    return (loss,)  # type: ignore[return-value]


def _denoising_definition(
    pred, x, coefficients, seeds, endpoint, noise, weight, gradient, stream, *, scales, scale_weights, **how
) -> tuple[Tensor, ...]:
    _, target = definition_of_diffuse(x, coefficients, seeds, endpoint, noise, stream)
    return _definition(pred, target, weight, gradient, scales, scale_weights, **how)


def _fake(pred: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """From the arguments of either operation, of which the last are the same."""
    target_or_x, *_, scales, _, _, _, reduction, gradient_dtype = arguments
    in_double = torch.float64 in (pred.dtype, target_or_x.dtype)
    dtype = torch.float64 if in_double else torch.float32
    gradient = pred.new_empty(0, dtype=torch.float32)
    if gradient_dtype is not None:
        gradient = torch.empty_like(pred, dtype=gradient_dtype)
    loss = pred.new_empty(pred.shape[:1] if _REDUCTIONS[reduction] == "none" else (), dtype=dtype)
    return loss, pred.new_empty((pred.shape[0], len(scales)), dtype=dtype), gradient


register_fake("multiscale_loss", _fake)
register_fake("denoising_loss", _fake)
differentiable(
    "multiscale_loss",
    definition=_definition,
    inputs=("pred", "target", "weight"),
    contiguous=("grad_loss",),
    by_definition=("weight",),
    made="gradient",
)
differentiable(
    "denoising_loss",
    definition=_denoising_definition,
    inputs=("pred", "x", "coefficients", "endpoint", "noise", "weight"),
    contiguous=("grad_loss",),
    by_definition=("weight",),
    made="gradient",
)

"""The multiscale loss in plain PyTorch: the definition the compiled kernels are held to.

With the residual r = pred − target, averaged over windows of s×s to r̄, the loss of a sample is

    L = Σ_s ω_s · mean of w̄·ρ(r̄) over channels and windows

Averaging is linear, so that the pooled prediction is compared with the pooled target (Hoogeboom et al., "Simple
diffusion", 2023, "Multiscale training loss": Σ over resolutions d of 1/d · ‖D_d[ε] − D_d[ε̂]‖²/d²).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .diffuse import diffuse, from_pixels

__all__ = ["denoising_loss", "multiscale_loss"]

PENALTIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "l2": lambda r, c: r * r,
    "l1": lambda r, c: r.abs(),
    "pseudo_huber": lambda r, c: (r * r + c * c).sqrt() - c,
}
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": Tensor.mean, "sum": Tensor.sum, "none": lambda x: x}


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
    """The loss, and with `terms` the means of each scale before ω, [B, scales]; in float32, float64 for float64."""
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    residual = pred.to(dtype) - target.to(dtype)
    if weight is not None:
        weight = per_sample(weight, pred.dim()).to(dtype)
        masked = weight == 0
        residual, weight = residual.masked_fill(masked, 0), weight.masked_fill(masked, 0)
    means = [_mean_of_windows(residual, weight, s, lambda r: PENALTIES[penalty](r, penalty_scale)) for s in scales]
    of_scales = torch.stack(means, -1)
    weights = residual.new_tensor(weights_of_scales(scales, scale_weights, pred.shape))
    loss = REDUCTIONS[reduction]((of_scales * weights).sum(-1))
    return (loss, of_scales.detach()) if terms else loss


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
    """The multiscale loss of a prediction of `diffuse`'s target."""
    dtype = torch.promote_types(pred.dtype, torch.promote_types(x.dtype, torch.float32))
    x = from_pixels(x, dtype)
    _, target = diffuse(x, coefficients, seeds, endpoint=endpoint, noise=noise, stream=stream, out_dtype=dtype)
    return multiscale_loss(
        pred, target, scales=scales, scale_weights=scale_weights, weight=weight, penalty=penalty,
        penalty_scale=penalty_scale, reduction=reduction, terms=terms,
    )  # fmt: skip


def per_sample(weight: Tensor, dimensions: int) -> Tensor:
    """A weight of one dimension has a number for each sample; others broadcast as they are."""
    return weight.view(-1, *[1] * (dimensions - 1)) if weight.dim() == 1 else weight


def weights_of_scales(scales: Sequence[int], scale_weights: str | Sequence[float], shape: torch.Size) -> list[float]:
    """ω: "mean" weighs all scales alike; "paper" by 1/d, d = √(HW)/s being the resolution that is left."""
    if scale_weights == "mean":
        return [1 / len(scales)] * len(scales)
    if scale_weights == "paper":
        return [s / math.sqrt(shape[-2] * shape[-1]) for s in scales]
    return [float(weight) for weight in scale_weights]


def _mean_of_windows(residual: Tensor, weight: Tensor | None, scale: int, rho: Callable[[Tensor], Tensor]) -> Tensor:
    """[B]: the mean of w̄·ρ(r̄) over all windows of a sample. In a window of weight 0 nothing counts."""
    if weight is None:
        values = rho(_pool(residual, scale))
    elif scale == 1 or weight.dim() < 2 or weight.shape[-2:] == (1, 1):  # one weight for a window
        values = weight * rho(_pool(residual, scale))
    else:
        mean_weight = _pool(weight.expand(*weight.shape[:-2], *residual.shape[-2:]), scale)
        mean = _pool(weight * residual, scale) / mean_weight.masked_fill(mean_weight == 0, 1)
        values = mean_weight * rho(mean)
    return values.unsqueeze(-1).flatten(1).mean(1)


def _pool(x: Tensor, scale: int) -> Tensor:
    """Means over windows of the last two dimensions; those at the lower and the right end may be smaller."""
    if scale == 1 or x.numel() == 0:
        return x
    height, width = x.shape[-2:]
    window = min(scale, height), min(scale, width)
    pooled = F.avg_pool2d(x.reshape(-1, 1, height, width), window, ceil_mode=True, count_include_pad=False)
    return pooled.view(*x.shape[:-2], *pooled.shape[-2:])

"""The training losses of SiT's `Transport`. There t = 1 is the image x1 and t = 0 the noise x0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import ops
from .._noising import Agreement, coefficients, mixed, small, unfit
from .._own_code import say_once

_agrees = Agreement()


def training_losses(
    original: Callable[..., dict[str, Tensor]],
    self: Any,
    model: Callable[..., Tensor],
    x1: Tensor,
    model_kwargs: dict[str, Any] | None = None,
) -> dict[str, Tensor]:
    """`Transport.training_losses`: "pred", the network's output, and "loss", [B]."""
    reason = unfit(x1, x1)
    if not reason and small(x1, x1):
        return original(self, model, x1, model_kwargs)
    if not reason and not _agrees(self, *_trials(original, self)):
        reason = "it computes something else than SiT's"
    if reason:
        say_once(f"{type(self).__name__}.training_losses", "SiT", reason)
        return original(self, model, x1, model_kwargs)
    return _losses(self, model, x1, model_kwargs or {})


def _losses(self: Any, model: Callable[..., Tensor], x1: Tensor, model_kwargs: dict[str, Any]) -> dict[str, Tensor]:
    t, x0, x1 = self.sample(x1)
    precise = t.to(torch.promote_types(t.dtype, torch.float32))
    _, *path = mixed(lambda images, noise: self.path_sampler.plan(precise, noise, images), x1, precise.dtype)
    rows = coefficients(*path)
    x_t = ops.add_noise(x1, rows, noise=x0)
    output = model(x_t, t, **model_kwargs)
    if output.shape != x_t.shape:
        raise ValueError(f"the network's output must have the shape {list(x_t.shape)}, got {list(output.shape)}")
    kind = self.model_type.name
    losses: Any
    if kind == "VELOCITY":
        losses = ops.denoising_loss(output, x1, rows, noise=x0, reduction="none")
    else:
        sigma, weight = _weight(self, x1, precise)
        if kind == "NOISE":
            losses = ops.multiscale_loss(output, x0, weight=weight, reduction="none")
        else:
            minus_noise = F.pad(-torch.ones_like(sigma)[..., None], (3, 0))
            losses = ops.denoising_loss(output * sigma, x1, minus_noise, noise=x0, weight=weight, reduction="none")
    return {"pred": output, "loss": losses.to(torch.promote_types(output.dtype, x0.dtype))}


def _weight(self: Any, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
    """σ [B, 1, …], and what the squared error of each sample is multiplied by, of the same shape."""
    shape = (-1, *[1] * (x1.dim() - 1))
    sigma, _ = self.path_sampler.compute_sigma_t(t.view(shape))
    _, drift = self.path_sampler.compute_drift(sigma, t)
    kind = self.loss_type.name
    weight = {"NONE": None, "VELOCITY": (drift / sigma) ** 2, "LIKELIHOOD": drift / sigma**2}[kind]
    return sigma, weight


def _trials(original: Callable[..., Any], self: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Both computations of a batch of tiny images."""

    def trial(losses: Callable[..., Any]) -> Any:
        x1, output = (torch.randn(2, 1, 2, 2) for _ in range(2))
        return losses(self, lambda x, t, **_: output + t.view(-1, 1, 1, 1), x1, {})

    return lambda: trial(original), lambda: trial(_losses)

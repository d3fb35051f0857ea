"""The training losses of DiT's `GaussianDiffusion`: the error of the mean, and the bound that trains the variance.

With x_t = a·x + b·ε, the true and the predicted mean of x_{t−1} differ by a multiple of the network's error r, and both
variances lie between exp(min) and exp(max) of the timestep. So the divergence of the two Gaussians is, for the output v
of the variance, δ = (v + 1)/2·(max − min),

    KL = ½·(δ + e^{−δ} − 1 + κ·r²·e^{−δ}),      κ = (change of the mean for an error of 1)² / exp(min)

(Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", 2021, equations 4 and 15.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ... import ops
from .._noising import Agreement, unfit
from .._own_code import say_once

_HALF_SPAN, _KAPPA = 2, 3
_tables: WeakKeyDictionary[Any, dict[torch.device, Tensor]] = WeakKeyDictionary()
_agrees = Agreement()


def training_losses(
    original: Callable[..., dict[str, Tensor]],
    self: Any,
    model: Callable[..., Tensor],
    x_start: Tensor,
    t: Tensor,
    model_kwargs: dict[str, Any] | None = None,
    noise: Tensor | None = None,
) -> dict[str, Tensor]:
    """`GaussianDiffusion.training_losses`: "mse", "vb" where the variance is learned, and "loss", [B] each."""
    if noise is None:
        noise = torch.randn_like(x_start)
    reason = _unserved(self) or unfit(x_start, noise)
    if not reason and not _agrees(self, *_trials(original, self)):
        reason = "it computes something else than DiT's"
    if reason:
        say_once(f"{type(self).__name__}.training_losses", "DiT", reason)
        return original(self, model, x_start, t, model_kwargs, noise)
    return _losses(self, model, x_start, t, model_kwargs or {}, noise)


def _losses(
    self: Any, model: Callable[..., Tensor], x: Tensor, t: Tensor, model_kwargs: dict[str, Any], noise: Tensor
) -> dict[str, Tensor]:
    learned = _learns_variance(self)
    numbers = _table(self, t.device)[t]
    first = (t == 0).nonzero().squeeze(1) if learned else t[:0]
    dtype = torch.promote_types(torch.promote_types(x.dtype, noise.dtype), torch.float32)
    x_t = ops.add_noise(x, numbers, noise=noise, out_dtype=dtype)  # which reads a and b alone
    output = _as_told(self, model)(x_t, _times(self, t), **model_kwargs)
    channels = x.shape[1]
    expected = (len(x), channels * (1 + learned), *x.shape[2:])
    if output.shape != expected:
        raise ValueError(f"the network's output must have the shape {list(expected)}, got {list(output.shape)}")
    mean, variance = output.split(channels, dim=1) if learned else (output, None)
    target = noise if self.model_mean_type.name == "EPSILON" else x
    mse: Any = ops.multiscale_loss(mean, target, reduction="none")
    mse = mse.to(torch.promote_types(mean.dtype, target.dtype))
    if variance is None:
        return {"mse": mse, "loss": mse}
    bound = _divergence(variance, mean.detach(), target, numbers)
    if len(first):
        bound = bound.index_put((first,), _likelihood(self, output[first], x[first], x_t[first], t[first]))
    if self.loss_type.name == "RESCALED_MSE":
        bound = bound * (self.num_timesteps / 1000.0)
    return {"vb": bound, "mse": mse, "loss": mse + bound}


def _divergence(variance: Tensor, mean: Tensor, target: Tensor, numbers: Tensor) -> Tensor:
    """The divergence in bits per dimension, [B]; its gradient goes into `variance` alone."""
    dtype, every = torch.promote_types(variance.dtype, torch.float32), list(range(1, mean.dim()))
    half_span, kappa = (numbers[:, column].view(-1, *[1] * len(every)) for column in (_HALF_SPAN, _KAPPA))
    error = (mean.to(dtype) - target).square_().mul_(kappa)
    above = torch.addcmul(half_span, half_span, variance.to(dtype))
    shrunk = torch.addcmul(above, torch.expm1(-above), 1 + error)
    return (shrunk.mean(every) + error.mean(every)) * (0.5 / math.log(2.0))


def _likelihood(self: Any, output: Tensor, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The likelihood of pixels at the first timestep, in bits per dimension: the diffusion's own."""
    mean, variance = output.split(x.shape[1], dim=1)
    frozen = torch.cat([mean.detach(), variance], dim=1)
    return self._vb_terms_bpd(lambda *_: frozen, x_start=x, x_t=x_t, t=t, clip_denoised=False)["output"]


def _table(self: Any, device: torch.device) -> Tensor:
    """float32 [timesteps, 4]: a, b, half of max − min, κ."""
    tables = _tables.setdefault(self, {})
    if device not in tables:
        lowest = self.posterior_log_variance_clipped
        change = self.posterior_mean_coef1
        if self.model_mean_type.name == "EPSILON":
            change = change * self.sqrt_recipm1_alphas_cumprod
        spans = 0.5 * (np.log(self.betas) - lowest)
        columns = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod, spans, change**2 / np.exp(lowest)
        tables[device] = torch.from_numpy(np.stack(columns, 1)).float().to(device)
    return tables[device]


def _as_told(self: Any, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The network as a respaced diffusion calls it, which numbers its timesteps anew."""
    return self._wrap_model(model) if hasattr(self, "_wrap_model") else model


def _times(self: Any, t: Tensor) -> Tensor:
    """What the network is told: t, but for OpenAI's `rescale_timesteps`."""
    return self._scale_timesteps(t) if hasattr(self, "_scale_timesteps") else t


def _learns_variance(self: Any) -> bool:
    return self.model_var_type.name in ("LEARNED", "LEARNED_RANGE")


def _unserved(self: Any) -> str:
    if self.loss_type.name not in ("MSE", "RESCALED_MSE"):
        return f"its loss is {self.loss_type.name}"
    if self.model_mean_type.name not in ("EPSILON", "START_X"):
        return f"its network predicts {self.model_mean_type.name}"
    return ""


def _trials(original: Callable[..., Any], self: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Both computations of a batch of tiny images, one of them at the first timestep."""

    def trial(losses: Callable[..., Any]) -> Any:
        x, noise, output = (torch.randn(2, channels, 2, 2) for channels in (1, 1, 2))
        if not _learns_variance(self):
            output = output[:, :1]

        def model(x: Tensor, t: Tensor, **_: Any) -> Tensor:
            return output + 1e-3 * t.view(-1, 1, 1, 1)

        t = torch.tensor([0, self.num_timesteps - 1])
        # A method below the one that is replaced may have renumbered the timesteps already.
        return losses(self, _as_told(self, model), x, t, {}, noise)

    return lambda: trial(original), lambda: trial(_losses)

"""How probable images are to a model: along the probability-flow ODE, or by the bound that training optimizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from visgen_fast import ops

from .. import _check as check
from ..nn.conditions import AnyCondition
from .embedded_pair import integrate
from .networks import check_asked, parted
from .predictions import Prediction, as_prediction, check_samplable, to_noise
from .schedules import Schedule, check_schedule

_FIRST_NOISE = 2  # of the bound; below it lie the directions of the trace, and the places of the levels


@torch.no_grad()
def likelihood(
    model: Callable[..., Tensor],
    x: Tensor,
    labels: AnyCondition,
    seeds: Tensor,
    *,
    schedule: Schedule,
    prediction: Prediction | str,
    tolerance: float = 1e-5,
    start: float = 1e-5,
) -> Tensor:
    """The logarithm of the density of x under the model: what its probability-flow ODE makes of the noise's density.

    The divergence along the way is estimated by e·∂f/∂x·e with e of ±1 from the seeds: unbiased, so averages over seeds
    converge to the exact value. For pixels, which are discrete, add uniform noise as wide as a step between two values;
    in 256 steps over [−1, 1], bits per dimension are 7 − result/(dimensions·ln 2).

    Args:
        model: model(x_t, t [B], labels) → prediction, differentiable in x_t (in eval mode).
        x: [B, …] data, float32 or float64: of this type are what the model gets. The rest is float64.
        labels: int64 [B], or any condition. seeds: int64 [B].
        schedule, prediction: of the model.
        tolerance: absolute and relative, of state and result, at each step of the solver. Steps are chosen for each
            sample alone, so that its result depends on its batch by rounding only.
        start: the time in the place of 0, where some slopes are infinite; x there is x·α.

    Returns:
        float64 [B], nats; NaN where the model gives NaN.

    Raises:
        TypeError, ValueError: an argument that does not fit, a model without a gradient, ε-prediction where no signal
            is left, times or a tolerance that cannot be.

    Source: Song et al., "Score-based generative modeling through stochastic differential equations", 2021, section 4.3
    and appendix D.2.
    """
    check_asked(model, labels, seeds)
    _check_data(x, len(seeds), schedule)
    prediction = as_prediction(prediction)
    check_samplable(schedule, prediction)
    check.number(tolerance, "tolerance", positive=True)
    check.number(start, "start")
    if not 0 <= start < 1:
        raise ValueError(f"start must lie in [0, 1), got {start}")
    sign = (ops.uniform(seeds, x.shape[1:], stream=ops.Purpose.LIKELIHOOD.stream()) > 0.5).double() * 2 - 1
    dimensions = math.prod(x.shape[1:])

    def slope(t: Tensor, state: Tensor) -> Tensor:
        """Of x_t, flat, and of the logarithm of its density, against the way."""
        of_state, of_output, scale = _flow(schedule, prediction, t)
        with torch.enable_grad():
            x_t = state[:, :-1].view(x.shape).detach().requires_grad_()
            read = (_per_sample(scale, x) * x_t).to(x.dtype)
            output = parted(model(read, t.to(x.dtype), labels), read)[0].double()
            if not output.requires_grad:
                raise ValueError("the model must be differentiable in x_t, and what it returned has no gradient")
            (along,) = torch.autograd.grad(output, x_t, sign)
        rise = of_state[:, None] * state[:, :-1] + of_output[:, None] * _flat(output.detach())
        divergence = of_state * dimensions + of_output * _flat(along * sign).sum(1)
        return torch.cat((rise, divergence[:, None]), 1)

    ends = torch.tensor([start, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.alpha(ends)[0].item(), schedule.sigma(ends)[1].item()
    begun = torch.cat((alpha * _flat(x.double()), x.new_zeros(len(x), 1, dtype=torch.float64)), 1)
    reached = integrate(slope, begun, start, 1.0, tolerance)
    noise = -0.5 * (reached[:, :-1] / sigma).square().sum(1) - dimensions * math.log(sigma * math.sqrt(2 * math.pi))
    return noise + reached[:, -1] + dimensions * math.log(alpha)


@torch.no_grad()
def elbo(
    model: Callable[..., Tensor],
    x: Tensor,
    labels: AnyCondition,
    seeds: Tensor,
    *,
    schedule: Schedule,
    prediction: Prediction | str,
    pixels: bool = True,
    calls: int = 128,
    span: tuple[float, float] = (1e-3, 0.999),
) -> Tensor:
    """The variational bound of −log₂ p(x), a dimension: it lies above, and touches for a perfect model.

    Reconstruction from the level at the beginning of `span`; ½∫‖ε − ε̂‖² dλ over its levels; and the information on x
    that is left at its end, against N(0, (α² + σ²)·I).

    Args:
        model, labels, seeds, schedule, prediction: as of `likelihood`; no gradient is needed.
        x: [B, …]. With `pixels` its values are the 256 of uint8, as −1 + 2·k/255, and the result counts a probability;
            otherwise they are continuous, and it counts a density.
        calls: of the network, at as many levels of λ, evenly spaced, with an offset from the seed.
        span: the first and the last time; (0, 1) for a schedule that has noise at time 0, as in the source.

    Returns:
        float64 [B], bits per dimension, an unbiased estimate.

    Raises:
        TypeError, ValueError: an argument that does not fit, no call, or a span that is not two rising times in [0, 1],
            with noise at the first.

    Source: Kingma et al., "Variational diffusion models", 2021, equations 11 to 18.
    """
    check_asked(model, labels, seeds)
    _check_data(x, len(seeds), schedule)
    prediction = as_prediction(prediction)
    check.integer(calls, "calls", 1)
    if not _is_rising(span) or schedule.sigma(torch.tensor(span[0], dtype=torch.float64)) == 0:
        raise ValueError(f"span must be two rising times in [0, 1], with noise at the first, got {span}")
    exact, dimensions = x.double(), math.prod(x.shape[1:])
    stream = ops.Purpose.LIKELIHOOD.stream
    offset = ops.uniform(seeds, (1,), stream=stream(1), dtype=torch.float64).squeeze(1)
    total = torch.stack(ends_of_bound(exact, seeds, schedule=schedule, pixels=pixels, span=span)).sum(0)
    high, low = (schedule.log_snr(torch.tensor(time, dtype=torch.float64)).item() for time in span)
    for call in range(calls):
        t = schedule.time(low + (high - low) * (offset + call) / calls)
        noise = ops.gaussian(seeds, x.shape[1:], stream=stream(_FIRST_NOISE + 1 + call), dtype=torch.float64)
        alpha, sigma = (_per_sample(level(t), x) for level in (schedule.alpha, schedule.sigma))
        x_t = alpha * exact + sigma * noise
        read = prediction.scale_input(x_t, alpha, sigma).to(x.dtype)
        output, _ = parted(model(read, t.to(x.dtype), labels), read)
        wrong = to_noise(output.double(), x_t, alpha, sigma, prediction) - noise
        total += (high - low) / (2 * calls) * _flat(wrong.square()).sum(1)
    return total / (dimensions * math.log(2))


def ends_of_bound(
    x: Tensor,
    seeds: Tensor,
    *,
    schedule: Schedule,
    pixels: bool = True,
    span: tuple[float, float] = (0.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """What `elbo` counts beside its integral: reconstruction and prior, in nats, float32 [B] each, float64 for float64.

    The first is what x_t at the beginning of `span` leaves open of x, not finite where it has no noise there; the
    second what x_t at the end still says of x. Both are differentiable in a learned schedule, and in nothing else.
    Arguments are those of `elbo`; TypeError or ValueError for those that do not fit.
    """
    _check_data(x, len(seeds), schedule)
    if not _is_rising(span):
        raise ValueError(f"span must be two rising times in [0, 1], got {span}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    t = torch.tensor(span, dtype=x.dtype, device=x.device)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return _reconstruction(x, sigma[0] / alpha[0], seeds, pixels), _left(x, alpha[1], sigma[1])


def _check_data(x: Any, batch: int, schedule: Any) -> None:
    check_schedule(schedule)
    check.floats(x, "x")
    if x.dim() == 0 or len(x) != batch or 0 in x.shape[1:]:
        raise ValueError(f"x must be [{batch}, ...], a sample of some numbers for each seed, got shape {list(x.shape)}")


def _is_rising(span: Any) -> bool:
    return check.is_pair(span) and 0 <= span[0] < span[1] <= 1


def _flow(schedule: Schedule, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(p, q, s) of dx_t/dt = α'·x̂ + σ'·ε̂ = p·x_t + q·output, at times [B], and what the network's input is times."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        (alpha_rise,), (sigma_rise,) = (torch.autograd.grad(level.sum(), t) for level in (alpha, sigma))
    alpha, sigma = alpha.detach(), sigma.detach()
    c, d = prediction.weights(alpha, sigma)
    determinant = alpha * d - sigma * c
    scale = torch.ones_like(alpha) if prediction.input_scale is None else prediction.input_scale(alpha, sigma)
    of_state = (alpha_rise * d - sigma_rise * c) / determinant
    return of_state, (sigma_rise * alpha - alpha_rise * sigma) / determinant, scale


def _reconstruction(x: Tensor, ratio: Tensor, seeds: Tensor, pixels: bool) -> Tensor:
    """−log p(x | x_t) in nats, [B]: x_t/α is x and noise of `ratio`, σ/α, and a pixel has one of 256 values."""
    noise = ops.gaussian(seeds, x.shape[1:], stream=ops.Purpose.LIKELIHOOD.stream(_FIRST_NOISE), dtype=x.dtype)
    if not pixels:
        return _flat(ratio.log() + 0.5 * math.log(2 * math.pi) + 0.5 * noise.square()).sum(1)
    return _flat(0.5 * noise.square() + _LogSum.apply(x, ratio, noise)).sum(1)


class _LogSum(torch.autograd.Function):
    """ln Σ exp(−½·((x + ratio·noise − v)/ratio)²) over the 256 values v of a pixel, elementwise.

    Differentiable in the ratio, by formula: autograd would keep 256 tensors of the image's size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ratio: Tensor, noise: Tensor) -> Tensor:
        nearest = ((x + ratio * noise + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
        largest = -0.5 * ((x - nearest) / ratio + noise).square()
        total, slope = torch.zeros_like(x), torch.zeros_like(x)
        for value in range(256):
            away = (x - (value / 127.5 - 1)) / ratio
            distance = away + noise
            share = (-0.5 * distance.square() - largest).exp()
            total += share
            slope += share * distance * away
        ctx.save_for_backward(slope / total, ratio)
        return largest + total.log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        slope, ratio = ctx.saved_tensors
        return None, (grad * slope).sum() / ratio, None


def _left(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The divergence of N(α·x, σ²) from N(0, α² + σ²) in nats, [B]."""
    share = alpha.square() / (alpha.square() + sigma.square())
    return 0.5 * _flat(share * (x.square() - 1) - torch.log1p(-share)).sum(1)


def _flat(x: Tensor) -> Tensor:
    """A row a sample."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _per_sample(level: Tensor, x: Tensor) -> Tensor:
    return level.view(-1, *[1] * (x.dim() - 1))

"""How likely an image is, given what a decoder says of it.

| kind | what is observed | its distribution |
|---|---|---|
| gaussian | (pixel + u)/128 − 1, u in (0, 1] | normal around the output, with one standard deviation |
| logistic | pixel/127.5 − 1 | logistic around the output, of one scale, summed up over the pixel's interval |
| bernoulli | 1 with the probability pixel/255, else 0 | of that probability by the output, a logit |

The first is a density of pixels with uniform noise u, in a pixel's steps: on average over u its logarithm is at most
that of a probability of the pixels, which the second is. The third is of images that the seed makes black and white,
and compares with nothing else.

Sources: Theis, van den Oord and Bethge, "A note on the evaluation of generative models", 2016, section 3.1; Kingma et
al., "Improving variational inference with inverse autoregressive flow", 2016; Salakhutdinov and Murray, 2008.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops

Likelihood = Literal["gaussian", "logistic", "bernoulli"]

_HALF_STEP = 1 / 255


def observe(pixels: Tensor, seeds: Tensor, kind: Likelihood) -> Tensor:
    """What is observed of pixels uint8 [B, ...] by their seeds int64 [B], as the kind has it: float32 [B, ...]."""
    _check(kind)
    if kind == "logistic":
        return pixels.float() / 127.5 - 1
    draws = ops.uniform(seeds, pixels.shape[1:], stream=ops.Purpose.LIKELIHOOD.stream())
    if kind == "gaussian":
        return (pixels + draws) / 128 - 1
    return (255 * draws <= pixels).float()


def log_likelihood(output: Tensor, observed: Tensor, log_scale: Tensor, kind: Likelihood) -> Tensor:
    """The log-likelihood of what was observed, in nats, [B].

    output, observed: [B, ...] of one shape; log_scale: the logarithm of the standard deviation of "gaussian", or of the
    scale of "logistic", a scalar; "bernoulli" has none. float64 is computed in float64, all else in float32.
    """
    _check(kind)
    if output.shape != observed.shape:
        raise ValueError(f"output and observed must have one shape, got {list(output.shape)}, {list(observed.shape)}")
    output, observed, log_scale = (
        x.to(torch.promote_types(x.dtype, torch.float32)) for x in (output, observed, log_scale)
    )
    if kind == "gaussian":
        distance = (observed - output) * (-log_scale).exp()
        values = -0.5 * distance.square() - log_scale - 0.5 * math.log(2 * math.pi) - math.log(128)
    elif kind == "logistic":
        values = _logistic(output, observed, log_scale)
    else:
        values = -F.softplus(torch.where(observed > 0.5, -output, output))
    return values.flatten(1).sum(1)


def _logistic(output: Tensor, observed: Tensor, log_scale: Tensor) -> Tensor:
    """ln(σ(a) − σ(b)) = ln σ(a) + ln σ(−b) + ln(1 − e^(b − a)), between the pixel's upper edge a and its lower one b.

    Black has no lower edge, white has no upper one.
    """
    inverse = (-log_scale).exp()
    above = F.logsigmoid((observed + _HALF_STEP - output) * inverse)
    below = F.logsigmoid((output + _HALF_STEP - observed) * inverse)
    between = torch.log(-torch.expm1(-2 * _HALF_STEP * inverse))
    inside = above + below + between
    return torch.where(observed < _HALF_STEP - 1, above, torch.where(observed > 1 - _HALF_STEP, below, inside))


def mean_image(output: Tensor, kind: Likelihood) -> Tensor:
    """The image in [−1, 1] that the output stands for."""
    _check(kind)
    return 2 * output.sigmoid() - 1 if kind == "bernoulli" else output


def _check(kind: str) -> None:
    if kind not in get_args(Likelihood):
        raise ValueError(f"kind must be one of {', '.join(get_args(Likelihood))}, got {kind!r}")

"""Decoupled Adam on lists of tensors, and the norm of a gradient, in plain PyTorch.

Sources: Kingma and Ba, "Adam: a method for stochastic optimization", 2015; Loshchilov and Hutter, "Decoupled weight
decay regularization", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["adamw_", "gradient_norm"]

Number = float | Tensor


@torch.no_grad()
def adamw_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    *,
    averages: Sequence[Tensor] | None = None,
    learning_rate: Number,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    step: Number,
    average_decay: Number | None = None,
    gradient_scale: Number | None = None,
) -> None:
    """g = scale·gradient; mean and square follow g and g²; the parameter decays and moves; the average follows it."""
    scale = 1.0 if gradient_scale is None else gradient_scale
    if not torch.isfinite(torch.as_tensor(scale)):
        return
    beta1, beta2 = betas
    correction1, correction2 = (1 - torch.as_tensor(beta, dtype=torch.float64) ** step for beta in betas)
    rate, root = float(learning_rate / correction1), float(correction2.sqrt())
    for i, (parameter, gradient, mean, square) in enumerate(zip(parameters, gradients, means, squares, strict=True)):
        real = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        g = gradient.to(real) * float(scale)
        m = mean.to(real).lerp(g, 1 - beta1)
        v = square.to(real) * beta2 + (1 - beta2) * g.square()
        decayed = parameter.to(real) * (1 - float(learning_rate) * weight_decay)
        mean.copy_(m)
        square.copy_(v)
        parameter.copy_(decayed - rate * m / (v.sqrt() / root + eps))
        if averages:
            average = averages[i]
            average.copy_(average.to(real).lerp(parameter.to(real), 1 - float(average_decay)))  # type: ignore[arg-type]


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The root of the sum of squares of all elements, which are added in float64."""
    real = torch.float64 if gradients[0].dtype == torch.float64 else torch.float32
    squares = [gradient.double().square().sum() for gradient in gradients]
    return torch.stack(squares).sum().sqrt().to(real)

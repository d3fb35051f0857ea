"""What a normalizing flow is: an invertible map from images to normal noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..nn.conditions import AnyCondition


class Flow(nn.Module, ABC):
    """An invertible map of images to standard normal noise, so that the density of every image is known.

    shape: of an image. null_label: the label that stands for "no class". guidable: whether `inverse` takes guidance.
    """

    shape: tuple[int, ...]
    null_label: int
    guidable = False

    @abstractmethod
    def forward(self, x: Tensor, condition: AnyCondition = None) -> tuple[Tensor, Tensor]:
        """Images x [B, *shape] to (noise z [B, *shape], ln|det ∂z/∂x| [B]).

        condition: labels int64 [B], `null_label` for no class, which None is for all. ValueError for images of another
        size, and for labels that are not one for each image.
        """

    @abstractmethod
    def inverse(self, z: Tensor, condition: AnyCondition = None, *, guidance: float = 1.0) -> Tensor:
        """Noise z [B, *shape] to images [B, *shape]; what `forward` raises.

        guidance: weight of the condition over none; 1 is the condition alone, and all that a flow has which is not
        `guidable` (ValueError).
        """

    def log_likelihood(self, x: Tensor, condition: AnyCondition = None) -> Tensor:
        """ln p(x) of images [B, *shape], a density, in nats: [B]. It is differentiable; what `forward` raises.

        Source: Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017, equation 3.
        """
        z, log_determinant = self(x, condition)
        return log_determinant - 0.5 * z.square().flatten(1).sum(1) - 0.5 * math.log(2 * math.pi) * z[0].numel()

    def labels_for(self, x: Tensor, condition: AnyCondition, name: str = "x") -> Tensor:
        """The labels int64 [B] of x; ValueError where these are not one for each image, or x is of another size."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"{name} must have shape [B, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        if condition is None:
            return torch.full((len(x),), self.null_label, device=x.device)
        if not isinstance(condition, Tensor) or condition.shape != (len(x),):
            got = list(condition.shape) if isinstance(condition, Tensor) else type(condition).__name__
            raise ValueError(f"the condition must be {len(x)} labels, one for each image, got {got}")
        return condition


def cleaned(flow: Flow, x: Tensor, condition: AnyCondition, width: float) -> Tensor:
    """x without the noise N(0, width²) that its density was learned with: x + width²·∇ ln p(x), by Tweedie's formula.

    x: [B, *shape], as `inverse` draws it. Source: Zhai et al., "Normalizing flows are capable generative models", 2024,
    section 3.3.
    """
    with torch.enable_grad():
        noisy = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(flow.log_likelihood(noisy, condition).sum(), noisy)
    return x + width**2 * score

"""What makes a reconstruction good: closeness in pixels and in features, and how to weigh an adversary beside them.

Every loss is one number an image, [B], float32.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

_LEAST_NORM = 1e-10


class FeatureNetwork(Protocol):
    """A network that shows its inner activations, as `models.classifier.Classifier` does."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Activations [B, features, h, w] of several levels."""


def pixel_loss(reconstruction: Tensor, images: Tensor, kind: Literal["l1", "l2"]) -> Tensor:
    """The mean absolute (l1) or squared (l2) difference of all values of an image."""
    difference = reconstruction.float() - images.float()
    return (difference.abs() if kind == "l1" else difference.square()).flatten(1).mean(1)


def perceptual_loss(network: FeatureNetwork, reconstruction: Tensor, images: Tensor) -> Tensor:
    """The squared distance of normalised features, averaged over space and summed over the network's levels.

    At each position a level's features are scaled to length 1. Source: Zhang et al., "The unreasonable effectiveness of
    deep features as a perceptual metric", 2018, equation 1, with all weights w_l equal to 1.
    """
    with torch.no_grad():
        targets = network.features(images)
    losses = [
        (_unit(features) - _unit(target)).square().sum(1).mean((1, 2))
        for features, target in zip(network.features(reconstruction), targets, strict=True)
    ]
    return torch.stack(losses).sum(0)


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + _LEAST_NORM)


def adaptive_weight(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """How much to scale `adversarial` so that it moves the decoder's last layer as strongly as `loss` does.

    ‖∂loss/∂w‖ / (‖∂adversarial/∂w‖ + 1e-4), clipped to [0, 1e4]: a constant without gradient. Both losses are scalars.
    Source: Esser, Rombach and Ommer, "Taming transformers for high-resolution image synthesis", 2021, equation 7.
    """
    norms = [
        torch.autograd.grad(scalar, last_layer, retain_graph=True)[0].float().norm() for scalar in (loss, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()

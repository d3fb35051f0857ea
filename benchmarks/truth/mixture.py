"""A mixture of Gaussians, for which everything that a diffusion model estimates is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Gaussians N(means[k], std²) in D dimensions, with weights; a class is a component. All float64."""

    means: Tensor
    std: float
    weights: Tensor

    def log_joint(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """ln p(x_t, k), [B, K], of x_t = α·x + σ·ε at [B, D]."""
        variance = (alpha * self.std) ** 2 + sigma**2
        squares = (x[:, None] - alpha * self.means).square().sum(2)
        return self.weights.log() - 0.5 * squares / variance - 0.5 * x.shape[1] * math.log(2 * math.pi * variance)

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """ln p(x_t), [B]."""
        return self.log_joint(x, alpha, sigma).logsumexp(1)

    def denoised(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x | x_t], [B, D]."""
        variance = (alpha * self.std) ** 2 + sigma**2
        within = self.means + alpha * self.std**2 / variance * (x_t[:, None] - alpha * self.means)
        return (self.log_joint(x_t, alpha, sigma).softmax(1)[..., None] * within).sum(1)

    def velocity(self, x_t: Tensor, t: float) -> Tensor:
        """E[z − x | x_t] of rectified flow, x_t = (1 − t)·x + t·z, for t in (0, 1]."""
        x = self.denoised(x_t, 1 - t, t)
        return (x_t - x) / t

    def sample(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Points [N, D] and their classes [N]."""
        generator = torch.Generator().manual_seed(seed)
        classes = torch.multinomial(self.weights, count, True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[classes] + self.std * noise, classes


TWO = Mixture(torch.tensor([[-1.0, 0.5], [1.5, -0.5]], dtype=torch.float64), 0.4, torch.tensor([0.3, 0.7]).double())
"""Two classes in the plane that overlap a little."""

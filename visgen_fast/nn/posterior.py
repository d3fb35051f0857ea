"""The normal distributions with which an encoder says where an image's latents lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops

# Beyond these, variances overflow or mean nothing in float32 (Rombach et al., "Latent diffusion", 2022).
_LEAST, _MOST = -30.0, 20.0


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, exp(log_variance)) of each latent; both [B, ...], of one shape and floating-point type."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> DiagonalGaussian:
        """From an encoder's output [B, 2·C, ...]: means first, then log-variances, kept within [−30, 20].

        16-bit floats become float32, in which such variances don't overflow. ValueError for an odd number of channels.
        """
        if parameters.dim() < 2 or parameters.shape[1] % 2:
            raise ValueError(f"parameters must be [B, 2·C, ...], got {list(parameters.shape)}")
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        mean, log_variance = parameters.chunk(2, 1)
        return cls(mean, log_variance.clamp(_LEAST, _MOST))

    def sample(self, seeds: Tensor) -> Tensor:
        """A draw of each image's latents by its seed, int64 [B]; differentiable in mean and log-variance."""
        stream = ops.Purpose.NOISE.stream()
        noise = ops.gaussian(seeds, self.mean.shape[1:], stream=stream, dtype=self.mean.dtype)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """The divergence of each latent from N(0, 1) in nats, of the mean's shape: ½(μ² + σ² − 1 − ln σ²).

        Source: Kingma and Welling, "Auto-encoding variational Bayes", 2014, appendix B.
        """
        return 0.5 * (self.mean.square() + torch.expm1(self.log_variance) - self.log_variance)

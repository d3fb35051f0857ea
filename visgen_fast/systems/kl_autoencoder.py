"""What is trained when the autoencoder of latent diffusion is, with latents that turn and shrink as their images do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..data.images import Images, in_chunks
from ..evaluation import pixel_errors, psnr
from ..nn.quantized import Quantized
from ..tokenizers.kl_autoencoder import KLAutoencoder
from .tokenizer import ReconstructionLoss, TokenizerSystem

# The shares of the steps in which latents are moved, and in which of the others images are small (EQ-VAE's).
_MOVED, _SMALL = 0.5, 0.25


class KLSystem(TokenizerSystem):
    """A `KLAutoencoder` with the losses of a tokenizer; losses.csv and metrics.json have its divergence in nats.

    equivariance: the images of half of the steps are compared with what is decoded of moved latents: turned by a
    random number of right angles and shrunk to between a quarter of their size and all but one; the image is moved
    alike. In a quarter of the other steps small images are encoded. All images of a step move the same way, by `seed`
    and the step. Kouzelis et al., "EQ-VAE: equivariance regularized latent space for improved generative image
    modeling", 2025. Images must be square then.
    """

    tokenizer: KLAutoencoder

    def __init__(
        self,
        tokenizer: KLAutoencoder,
        loss: ReconstructionLoss,
        *,
        equivariance: bool = False,
        seed: int = 0,
        **networks: Any,
    ) -> None:
        super().__init__(tokenizer, loss, **networks)
        self.metric_names = (*self.metric_names, "kl")
        self.equivariance, self.seed = equivariance, seed
        self._draws = [1.0] * 4

    def before_step(self, step: int) -> None:
        super().before_step(step)
        if self.equivariance:
            seeds = ops.derive_seeds(self.seed, torch.tensor([step]), purpose=ops.Purpose.AUGMENTATION)
            self._draws = ops.uniform(seeds, (4,))[0].tolist()

    def reconstruct(self, images: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor, Quantized]:
        moved, small, turn, size = self._draws
        factor = self.tokenizer.encoder.reduction
        sizes = smaller(images.shape[-1] // factor)
        side = sizes[math.ceil(size * len(sizes)) - 1]
        if moved > _MOVED and small <= _SMALL:
            images = resized(images, side * factor)
        posterior = self.tokenizer.posterior(images)
        self._note("kl", posterior.kl().flatten(1).sum(1))
        latents = shown = posterior.sample(seeds)
        outcome = self.tokenizer.outcome(posterior, latents, images)
        if moved <= _MOVED:
            turns = math.ceil(3 * turn)
            shown = resized(latents.rot90(turns, (2, 3)), side)
            images = resized(images.rot90(turns, (2, 3)), side * factor)
        return images, self.tokenizer.decode_latents(shown), outcome

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """As of a tokenizer, of the means; and the divergence in nats an image.

        turned_psnr: of what is decoded of latents turned by a right angle, in decibels; for square images.
        """
        found = super().evaluate(images, device=device)
        kl, turned = [], []
        for shown, _ in in_chunks(images, device):
            posterior = self.tokenizer.posterior(shown)
            kl.append(posterior.kl().flatten(1).sum(1))
            if shown.dim() == 4 and shown.shape[2] == shown.shape[3]:
                again = self.tokenizer.decode_latents(posterior.mean.rot90(1, (2, 3)))
                turned.append(psnr(pixel_errors(again, shown.rot90(1, (2, 3)))))
        found["kl"] = float(torch.cat(kl).mean())
        return {**found, "turned_psnr": float(torch.cat(turned).mean())} if turned else found


def smaller(side: int) -> list[int]:
    """The sides that a grid of latents of this `side` is shrunk to: from a quarter, but no less than 2."""
    return list(range(max(2, math.ceil(side / 4)), side)) or [side]


def resized(x: Tensor, side: int) -> Tensor:
    """[B, C, h, w] to [B, C, side, side], smoothed first where it shrinks."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear", antialias=True)

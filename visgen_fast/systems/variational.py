"""What is trained when a diffusion model is to give images a high likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import ops
from ..data.images import Images, in_chunks, to_range
from ..data.order import Batch
from ..diffusion.likelihood import elbo, ends_of_bound
from ..diffusion.prior import DiffusionPrior
from .classes import without_class
from .prior import PriorSystem

# Calls of the network for an image when it is measured, at most, and for all images together.
_MOST_CALLS, _ALL_CALLS = 128, 2**15
_CALLS_OF_AN_IMAGE = 16  # where images are told apart


class VariationalSystem(PriorSystem):
    """A diffusion prior of pixels whose loss is the bound of −log₂ p(x), in bits per dimension, with all its terms.

    The objective's weight is `ELBO`, and its schedule has noise at time 0; where that is learned, so are its ends.
    Kingma et al., "Variational diffusion models", 2021, equation 11.
    """

    prior: DiffusionPrior
    gives_likelihood = True

    def forward(self, batch: Batch) -> Tensor:
        levels = super().forward(batch) / 2
        ends = ends_of_bound(to_range(batch.images), batch.seeds, schedule=self.prior.objective.schedule)
        return (levels + torch.stack(ends).sum(0) / math.prod(self.shape)) / math.log(2)

    @torch.no_grad()
    def bits(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """The bound, from 16 calls of the network an image."""
        nobody = self.condition(without_class(self.condition.drop, self.condition.null_label, seeds))
        objective = self.prior.objective
        bound = elbo(
            *(self.prior.network, to_range(pixels), nobody, seeds),
            schedule=objective.schedule,
            prediction=objective.prediction,
            calls=_CALLS_OF_AN_IMAGE,
            span=(0.0, 1.0),
        )
        return bound.double() * math.prod(self.shape)

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """The mean bound of `images` in bits per dimension, and the two terms of it that are none of the network's.

        An unbiased estimate from about 2¹⁵ calls of the network in all, at most 128 an image.
        """
        calls = min(_MOST_CALLS, math.ceil(_ALL_CALLS / len(images)))
        objective, dimensions = self.prior.objective, math.prod(self.shape)
        totals, measured = torch.zeros(3, dtype=torch.float64), 0
        # Of a caption that no training has seen nothing is known; a class is one that it has.
        unknown = images.format.captions and self.condition.drop > 0
        for shown, labels in in_chunks(images, device):
            if unknown:
                labels = torch.full_like(labels, self.condition.null_label)
            places = measured + torch.arange(len(shown), device=device)
            seeds = ops.derive_seeds(0, places, purpose=ops.Purpose.LIKELIHOOD)
            bound = elbo(
                *(self.prior.network, shown, self.condition(labels), seeds),
                schedule=objective.schedule,
                prediction=objective.prediction,
                calls=calls,
                span=(0.0, 1.0),
            )
            ends = ends_of_bound(shown.double(), seeds, schedule=objective.schedule)
            totals += torch.stack((bound, *(end / (dimensions * math.log(2)) for end in ends))).sum(1).cpu()
            measured += len(shown)
        names = ("bits_per_dimension", "reconstruction_bits", "prior_bits")
        return dict(zip(names, (totals / measured).tolist(), strict=True))

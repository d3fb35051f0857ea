"""What is trained when an energy is by denoising score matching."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from .. import ops
from ..data.images import to_range
from ..diffusion.predictions import coefficients
from ..diffusion.prior import DiffusionPrior
from ..energies.energy import EnergyModel
from .prior import PriorSystem

_LEVEL = 4.0  # λ at which images are told apart: noise of an eighth of their range


class EnergySystem(PriorSystem):
    """A diffusion prior whose network is an `EnergyModel`, which says how unlikely an image is, up to a constant."""

    prior: DiffusionPrior

    @torch.no_grad()
    def energies(self, pixels: Tensor, seeds: Tensor) -> Tensor | None:
        """Of images with little noise, without a class; None for a network that has always seen one."""
        if self.condition.drop == 0:
            return None
        objective = self.prior.objective
        t = objective.schedule.time(torch.tensor(_LEVEL)).float().to(seeds.device).expand(len(seeds))
        rows = coefficients(objective.schedule, objective.prediction, t)
        x_t = ops.add_noise(to_range(pixels), rows, seeds)
        nobody = torch.full_like(seeds, self.condition.null_label)
        return cast(EnergyModel, self.model).energy(x_t, t, nobody)

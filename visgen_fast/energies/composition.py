"""Sums of energies: images that are of several classes at once, or of one and not of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .energy import EnergyModel


class Composition(nn.Module):
    """E_∅ + Σ w_i·(E_i − E_∅), of a model of energies E_i given labels: for w_i = 1 all classes at once, which are
    independent given the image; w_i < 0 keeps away from one.

    As `EnergyModel` it has `energy` and predicts the noise, whatever the label it is called with, so it is drawn with
    as any network is. The sum is that of the energies at every level, whose samples `annealed_langevin` draws.

    model: an `EnergyModel` with a null label, or, for the noise alone, any network of "epsilon" with one. terms: pairs
    of (label, weight), at least one. ValueError where there is none, or no null label.

    Source: Du, Li and Mordatch, "Compositional visual generation with energy based models", 2020.
    """

    def __init__(self, model: nn.Module, terms: Sequence[tuple[int, float]]) -> None:
        super().__init__()
        null = getattr(model, "null_label", None)
        if null is None:
            raise ValueError("the model must have a null label: what is common to all classes must count once")
        if not terms:
            raise ValueError("terms must be at least one pair of a label and its weight, got none")
        self.model, self.terms = model, [*terms, (null, 1 - sum(weight for _, weight in terms))]

    def energy(self, x_t: Tensor, t: Tensor, labels: object = None) -> Tensor:
        """[B], in nats, up to a constant; arguments as of `EnergyModel.energy`."""
        return self._sum(cast(EnergyModel, self.model).energy, x_t, t)

    def forward(self, x_t: Tensor, t: Tensor, labels: object = None) -> Tensor:
        return self._sum(self.model, x_t, t)

    def _sum(self, function: Callable[..., Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        count = len(self.terms)
        labels = torch.tensor([label for label, _ in self.terms], device=x_t.device).repeat_interleave(len(x_t))
        values = function(torch.cat((x_t,) * count), torch.cat((t,) * count), labels).unflatten(0, (count, -1))
        weights = torch.tensor([weight for _, weight in self.terms], dtype=values.dtype, device=values.device)
        return torch.einsum("n,n...->...", weights, values)

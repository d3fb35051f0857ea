"""What is trained when an energy is by contrastive divergence, and how its images are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check as check
from .. import ops
from ..data.images import Images, in_chunks, to_range
from ..data.order import Batch
from ..energies.contrastive import contrastive_divergence
from ..energies.energy import EnergyModel
from ..energies.replay import ReplayBuffer
from .classes import check_labels
from .generative import GenerativeSystem


class NoisyEnergy(nn.Module):
    """The energy of images with noise of one width: E(x, label) = ½·‖x − h(x, 0, label)‖²/width², with a network h.

    Where exp(−E) is the density of x, x − width²·∇E is the mean of the images that x may come from (Tweedie's formula).
    """

    def __init__(self, network: nn.Module, width: float) -> None:
        super().__init__()
        self.width = width
        self.model = EnergyModel(network, lambda t: torch.full_like(t, width**2))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.model.energy(x, x.new_zeros(len(x)), labels)

    def cleaned(self, x: Tensor, labels: Tensor) -> Tensor:
        """x without the noise: x − width²·∇E."""
        with torch.enable_grad():
            noisy = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self(noisy, labels).sum(), noisy)
        return x - self.width**2 * slope


class ContrastiveSystem(GenerativeSystem):
    """A class-conditional energy of images with noise, lowered at images and raised where chains from `buffer` end.

    steps: of a chain, from the buffer's states on; it is drawn by chains from noise, as many steps longer than those of
    the buffer.
    """

    def __init__(self, energy: NoisyEnergy, buffer: ReplayBuffer, *, steps: int) -> None:
        super().__init__()
        self.energy, self.buffer, self.steps = energy, buffer, steps

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("energy",)

    def before_step(self, step: int) -> None:
        self.buffer.before_step(self.energy, step)

    def forward(self, batch: Batch) -> Tensor:
        labels, seeds = batch.labels, batch.seeds
        return contrastive_divergence(
            lambda x: self.energy(x, labels),
            self._noised(to_range(batch.images), seeds),
            seeds,
            steps=self.steps,
            step_size=self.buffer.step_size,
            start=self.buffer.states(labels, seeds),
        )

    def _noised(self, images: Tensor, seeds: Tensor) -> Tensor:
        return images + self.energy.width * ops.gaussian(seeds, images.shape[1:], stream=ops.Purpose.NOISE.stream())

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, callback: Callable[..., None] | None = None, **options: Any
    ) -> Tensor:
        check_labels(labels, self.buffer.classes)
        more = self.options(**options)["steps"] - self.buffer.steps
        images = self.energy.cleaned(self.buffer.chains(self.energy, labels, seeds, more=more), labels)
        if callback is not None:
            callback(0, 0.0, images, images)
        return images

    def options(self, **asked: Any) -> dict[str, Any]:
        asked = {name: value for name, value in asked.items() if value is not None}
        check.options(asked, ["steps"], "an energy that was learned by contrast")
        steps = asked.get("steps", self.buffer.steps + self.steps)
        check.integer(steps, "steps", 1)
        return {"steps": steps}

    @torch.no_grad()
    def energies(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Of images with noise, and of all classes together: −ln Σ exp(−E) over the labels."""
        x = self._noised(to_range(pixels), seeds)
        of_labels = [-self.energy(x, torch.full_like(seeds, label)) for label in range(self.buffer.classes)]
        return -torch.stack(of_labels).logsumexp(0)

    @torch.no_grad()
    def evaluate(self, images: Images, *, device: torch.device) -> dict[str, float]:
        """The mean energies, in nats, of `images` with noise, and of as many that chains draw of the same classes.

        Equal ones are what training aims at. An energy has no likelihood.
        """
        totals, measured = torch.zeros(2, dtype=torch.float64), 0
        for shown, labels in in_chunks(images, device):
            places = measured + torch.arange(len(shown), device=device)
            seeds = ops.derive_seeds(0, places, purpose=ops.Purpose.LIKELIHOOD)
            drawn = self.buffer.chains(self.energy, labels, seeds, more=self.steps)
            both = [self.energy(x, labels).double().sum().cpu() for x in (self._noised(shown, seeds), drawn)]
            totals, measured = totals + torch.stack(both), measured + len(shown)
        return dict(zip(("energy_of_images", "energy_of_samples"), (totals / measured).tolist(), strict=True))

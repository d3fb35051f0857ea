"""What is trained when a Schrödinger bridge is: two networks in turns, each on what the other one draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..data.order import Batch
from ..diffusion.bridges import bridge_coefficients, sample_bridge
from ..diffusion.guidance import drop_labels
from ..diffusion.schrodinger import drift_to, reversed_target
from ..training.system import Player
from .bridge import Network, PathSystem
from .ends import ImageEnd

_DIRECTIONS = ("backward", "forward")
_LEAST_TIME = 1e-3


class SchroedingerSystem(PathSystem):
    """Two networks of drifts, of which one learns while the other one rests, for `turn_steps` optimizer steps each.

    The one that learns is taught from a cache of `cache` trajectories of the resting one, which are drawn anew every
    `refresh` steps, from seeds: so no checkpoint holds them, and a resumed run draws them again, the same bits. The
    first turn is that of the network back to the images; it learns from the reference process.

    backward, forward: class-conditional networks (x_t, t, labels). ends: what `PathSystem` takes. seed: of the run.
    trained: whether the networks come trained as a path between these ends: then the first turn learns from what
    `forward` draws, and not from the reference process. ValueError unless refresh divides turn_steps.
    """

    def __init__(
        self,
        backward: nn.Module,
        forward: nn.Module,
        *ends: Any,
        turn_steps: int,
        refresh: int,
        cache: int,
        label_drop: float,
        seed: int,
        trained: bool = False,
    ) -> None:
        super().__init__(*ends)
        if turn_steps % refresh:
            raise ValueError(f"refresh must divide turn_steps {turn_steps}, got {refresh}")
        self.backward_model, self.forward_model = backward, forward
        self.turn_steps, self.refresh, self.size = turn_steps, refresh, cache
        self.label_drop, self.seed, self.trained = label_drop, seed, trained
        self._cache: tuple[int, dict[str, Tensor]] | None = None  # the step it was drawn at, and what was drawn
        self._of_reference = not trained

    def model(self, direction: str) -> nn.Module:
        """The network of that direction."""
        return self.backward_model if direction == "backward" else self.forward_model

    def forward(self, batch: Batch) -> Tensor:
        return self._loss("backward", batch)

    def players(self) -> Sequence[Player]:
        return [
            Player(
                *(name, list(self.model(name).parameters()), partial(self._loss, name)),
                every=2,
                turn_steps=self.turn_steps,
                place=place,
            )
            for place, name in enumerate(_DIRECTIONS)
        ]

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        first = step - step % self.refresh
        if self._cache is None or self._cache[0] != first:
            device = next(self.parameters()).device
            places = torch.arange(self.size, device=device)
            seeds = ops.derive_seeds(self.seed, places, step=first, purpose=ops.Purpose.COUPLING)
            turn, training = step // self.turn_steps, self.training
            self._of_reference = turn == 0 and not self.trained
            self.eval()
            self._cache = first, self._simulated(seeds, _DIRECTIONS[1 - turn % 2])
            self.train(training)

    @property
    def drawn(self) -> dict[str, Tensor]:
        """The cache of the last step that `before_step` was told: "labels" and what is learned from, `size` of each."""
        assert self._cache is not None  # before_step has drawn it
        return self._cache[1]

    def _ends(self, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What lies at both ends, as it comes, and the labels of the images at the start."""
        assert isinstance(self.start, ImageEnd)
        x, labels = self.start.pick(seeds)
        return x, self.end.draw(seeds), labels

    def _followed(self, going: str, seeds: Tensor, start: Tensor, labels: Tensor, *, path: bool) -> Tensor:
        network: Network = (lambda x, t, labels: torch.zeros_like(x)) if self._of_reference else self.network(going)
        steps = self.drawing.steps
        return sample_bridge(network, start, seeds, labels, sigma=self.sigma, direction=going, steps=steps, path=path)

    @abstractmethod
    def _simulated(self, seeds: Tensor, going: str) -> dict[str, Tensor]:
        """What the network that goes `going`, or the reference, draws: "labels", and more, a sample a seed."""

    @abstractmethod
    def losses_at(self, name: str, share: Tensor, some: dict[str, Tensor], labels: Any, seeds: Tensor) -> Tensor:
        """The loss [B] of the network `name`, at a share in (0, 1] of all times, [B], of some of what was drawn."""

    def _loss(self, name: str, batch: Batch) -> Tensor:
        seeds = batch.seeds
        place = ops.uniform(seeds, (1,), stream=ops.Purpose.COUPLING.stream()).squeeze(1).double()
        chosen = (place * self.size).ceil().long() - 1
        some = {key: value[chosen] for key, value in self.drawn.items()}
        labels = drop_labels(some["labels"], seeds, self.label_drop, self.classes)
        share = ops.uniform(seeds, (1,), stream=ops.Purpose.TIME.stream()).squeeze(1)
        return self.losses_at(name, share, some, labels, seeds)

    def network(self, direction: str) -> Network:
        return self.model(direction)


class MatchingSystem(SchroedingerSystem):
    """DSB matching: Brownian bridges between ends that the resting network couples; the first turn's are independent.

    Shi et al., "Diffusion Schrödinger bridge matching", 2023.
    """

    def _simulated(self, seeds: Tensor, going: str) -> dict[str, Tensor]:
        x, endpoint, labels = self._ends(seeds)
        if not self._of_reference:
            start = x if going == "forward" else endpoint
            reached = self._followed(going, seeds, start, labels, path=False)
            x, endpoint = (x, reached) if going == "forward" else (reached, endpoint)
        return {"x": x, "endpoint": endpoint, "labels": labels}

    def losses_at(self, name: str, share: Tensor, some: dict[str, Tensor], labels: Any, seeds: Tensor) -> Tensor:
        x, endpoint = some["x"], some["endpoint"]
        t = _LEAST_TIME + (1 - 2 * _LEAST_TIME) * share
        rows = bridge_coefficients("brownian", f"{name}_drift", t, sigma=self.sigma)
        output = self.model(name)(ops.add_noise(x, rows, seeds, endpoint=endpoint), t, labels)
        # The drift's spread grows without bound towards the end that it leads to; the time left evens that out.
        left = t if name == "backward" else 1 - t
        losses = ops.denoising_loss(output, x, rows, seeds, endpoint=endpoint, weight=left, reduction="none")
        assert isinstance(losses, Tensor)  # without `terms`
        return losses


class TrajectorySystem(SchroedingerSystem):
    """DSB: a step of a trajectory of the resting network, reversed; the first turn's are Brownian motion from images.

    target: as of `reversed_target`. De Bortoli et al., "Diffusion Schrödinger bridge with applications to score-based
    generative modeling", 2021; Tang et al., "Simplified diffusion Schrödinger bridge", 2024.
    """

    def __init__(self, *ends: Any, target: str, **options: Any) -> None:
        super().__init__(*ends, **options)
        self.target = target

    def network(self, direction: str) -> Network:
        network = super().network(direction)
        return drift_to(network, direction) if self.target == "terminal" else network

    def _simulated(self, seeds: Tensor, going: str) -> dict[str, Tensor]:
        x, endpoint, labels = self._ends(seeds)
        start = x if going == "forward" else endpoint
        path = self._followed(going, seeds, start, labels, path=True)
        return {"path": path.transpose(0, 1), "labels": labels}

    def losses_at(self, name: str, share: Tensor, some: dict[str, Tensor], labels: Any, seeds: Tensor) -> Tensor:
        path, going = some["path"].transpose(0, 1), _DIRECTIONS[1 - _DIRECTIONS.index(name)]
        place = (share.double() * (len(path) - 1)).ceil().long()
        drift = None if self._of_reference else self.network(going)
        with torch.no_grad():
            x_t, t, aim = reversed_target(
                *(path, place, self.target), direction=going, drift=drift, labels=some["labels"]
            )
        output = self.model(name)(x_t, t, labels)
        return (output - aim).square().flatten(1).mean(1)

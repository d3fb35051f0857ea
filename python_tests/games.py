"""A system of three players, a frozen network and an average, for the tests of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visgen_fast.data.images import ImagesInMemory, digits, to_range
from visgen_fast.data.order import Batch
from visgen_fast.training.system import Player, System

SIDE = 8


def few_digits() -> ImagesInMemory:
    """64 of the digits."""
    whole = digits()
    return ImagesInMemory(whole.pixels[:64], whole.labels[:64], whole.format.class_names)


class Game(System):
    """A generator that an adversary and a critic watch: each has a network, and a loss through the others' networks.

    `frozen` has the frozen network as a sub-module; `every` and `start` are those of the second and the third player.
    """

    metric_names = ("brightness",)

    def __init__(self, *, every: int = 1, start: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(SIDE * SIDE, 6), nn.Dropout(dropout), nn.Linear(6, SIDE * SIDE))
        self.adversary = nn.Sequential(nn.Linear(SIDE * SIDE, 5), nn.Dropout(dropout), nn.Linear(5, 1))
        self.critic = nn.Linear(SIDE * SIDE, 3)
        self.features = nn.Sequential(nn.Linear(SIDE * SIDE, 4), nn.BatchNorm1d(4)).eval().requires_grad_(False)
        self.frozen = ("features",)
        self.every, self.start = every, start
        self.turns: list[tuple[str, int, float]] = []

    def _note(self, name: str) -> None:
        self.turns.append((name, torch.initial_seed(), float(self.generator[0].weight.detach().sum())))

    def _fake(self, batch: Batch) -> tuple[Tensor, Tensor]:
        real = to_range(batch.images).flatten(1)
        return real, self.generator(real)

    def forward(self, batch: Batch) -> Tensor:
        self._note("generator")
        real, fake = self._fake(batch)
        distance = (self.features(fake) - self.features(real)).square().mean(1)
        return (fake - real).square().mean(1) - 0.1 * self.adversary(fake)[:, 0] + distance

    def judge(self, batch: Batch) -> Tensor:
        self._note("adversary")
        real, fake = self._fake(batch)
        return (self.adversary(fake) - self.adversary(real))[:, 0].sigmoid()

    def criticise(self, batch: Batch) -> Tensor:
        self._note("critic")
        real, fake = self._fake(batch)
        return (self.critic(fake) - self.critic(real)).square().mean(1) + self.adversary(fake)[:, 0].square()

    def players(self) -> tuple[Player, ...]:
        return (
            Player("generator", list(self.generator.parameters()), self.forward),
            Player("adversary", list(self.adversary.parameters()), self.judge, beta1=0.5, every=self.every),
            Player("critic", list(self.critic.parameters()), self.criticise, lr_scale=0.5, start=self.start),
        )

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("generator",)

    def metrics(self) -> dict[str, Tensor]:
        return {"brightness": self.generator[2].bias.mean()}

    def draw(self, images, *, seed, device):
        return torch.zeros(1, 10, 1, SIDE, SIDE), ("nothing",)

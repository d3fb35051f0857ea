"""What is trained when a generator is, against a discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.images import to_range
from ..data.order import Batch
from ..diffusion.inversion import slerp
from ..models.dcgan import DCGANDiscriminator, DCGANGenerator
from ..models.stylegan import StyleDiscriminator, StyleGenerator
from ..nn.adversarial import Kind, discriminator_loss, generator_loss, gradient_penalty
from ..training.system import Player
from .vectors import VectorSystem


@dataclass(frozen=True)
class GameSettings:
    """What the two play for.

    kind: of the losses (`nn.adversarial`); r1, r2: γ of the gradient penalties of real and of generated images, 0 for
    none, taken every `penalty_every` steps and counted that often; generator_every: the generator learns in every n-th
    step; beta1: of both optimizers; lr_scale: the discriminator's learning rate over the generator's.
    """

    kind: Kind = "non_saturating"
    r1: float = 0.0
    r2: float = 0.0
    penalty_every: int = 1
    generator_every: int = 1
    beta1: float = 0.5
    lr_scale: float = 1.0


class GANSystem(VectorSystem):
    """A generator and a discriminator, of images of classes or without, that learn in turns.

    In a step the discriminator is first, and the generator is judged by what it has just learned, on the same latent
    vectors: those of the images' seeds. A turn leaves every bit of the other network as it is.
    """

    metric_names = ("real_logit", "fake_logit", "penalty")

    def __init__(
        self,
        generator: DCGANGenerator | StyleGenerator,
        discriminator: DCGANDiscriminator | StyleDiscriminator,
        game: GameSettings,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.game = generator, discriminator, game
        self._penalized = True
        self._seen: dict[str, list[Tensor]] = {name: [] for name in self.metric_names}

    def forward(self, batch: Batch) -> Tensor:
        """The discriminator's loss of every image, [B]."""
        images, labels = to_range(batch.images), self._labels(batch)
        with torch.no_grad():
            fakes = self._generate(batch)
        real, fake = self.discriminator(images, labels), self.discriminator(fakes, labels)
        self._seen["real_logit"].append(real.detach().float().mean())
        self._seen["fake_logit"].append(fake.detach().float().mean())
        loss = discriminator_loss(real, fake, self.game.kind)
        if not self._penalized:
            return loss
        penalty = torch.zeros_like(loss)
        for gamma, shown in ((self.game.r1, images), (self.game.r2, fakes)):
            if gamma > 0:
                penalty = penalty + gamma / 2 * gradient_penalty(lambda x: self.discriminator(x, labels), shown)
        self._seen["penalty"].append(penalty.detach().mean())
        return loss + self.game.penalty_every * penalty

    def deceive(self, batch: Batch) -> Tensor:
        """The generator's loss of every image, [B]."""
        labels, real = self._labels(batch), None
        fake = self.discriminator(self._generate(batch), labels)
        if self.game.kind == "relativistic":
            with torch.no_grad():
                real = self.discriminator(to_range(batch.images), labels)
        return generator_loss(real, fake, self.game.kind)

    def _generate(self, batch: Batch) -> Tensor:
        return self.generator(self.generator.draw(batch.seeds), self._labels(batch), batch.seeds)

    def _labels(self, batch: Batch) -> Tensor | None:
        return batch.labels if self.conditional else None

    def players(self) -> Sequence[Player]:
        game, networks = self.game, (self.discriminator, self.generator)
        first, second = (list(network.parameters()) for network in networks)
        return (
            Player("discriminator", first, self.forward, lr_scale=game.lr_scale, beta1=game.beta1),
            Player("generator", second, self.deceive, beta1=game.beta1, every=game.generator_every),
        )

    @property
    def averaged(self) -> tuple[str, ...]:
        return ("generator",)

    def before_step(self, step: int) -> None:
        self._penalized = (self.game.r1 > 0 or self.game.r2 > 0) and step % self.game.penalty_every == 0

    def metrics(self) -> dict[str, Tensor]:
        """Mean logits, and the mean penalty where there was one, γ/2 counted."""
        found = {}
        for name, values in self._seen.items():
            found[name] = torch.stack(values).mean() if values else torch.zeros((), device=self._device)
            values.clear()
        return found

    @property
    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def classes(self) -> int:
        return self.generator.classes

    @property
    def has_styles(self) -> bool:  # type: ignore[override]
        return isinstance(self.generator, StyleGenerator)

    def points(self, labels: Tensor | None, seeds: Tensor, truncation: float) -> Tensor:
        z = self.generator.draw(seeds)
        if not isinstance(self.generator, StyleGenerator):
            return z
        return self.generator.truncated(self.generator.mapping(z, labels), labels, truncation)

    def between(self, first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
        """Along a great circle for latents, along a line for styles."""
        if self.has_styles:
            return torch.lerp(first, second, shares[:, None].to(first.dtype))
        return slerp(first, second, shares)

    def render(self, points: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        if isinstance(self.generator, StyleGenerator):
            return self.generator.synthesis(points, seeds)
        return self.generator(points, labels, seeds)

"""Systems that make an image of one latent vector: how images are drawn, and those on the way between two."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.images import AT_A_TIME
from .generative import GenerativeSystem, seeds_of


class VectorSystem(GenerativeSystem):
    """A system whose image is a function of a latent vector, which comes from the image's seed.

    has_styles: whether the vector passes through a mapping network, so that there are styles to truncate.
    """

    has_styles = False

    @abstractmethod
    def points(self, labels: Tensor | None, seeds: Tensor, truncation: float) -> Tensor:
        """The vectors [B, D] of images of these seeds: styles, or latents of N(0, 1)."""

    @abstractmethod
    def between(self, first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
        """Vectors on the way from the `first` [B, D] to the `second`, the share [B] of it behind them."""

    @abstractmethod
    def render(self, points: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """Images [B, C, H, W] of the vectors, with whatever else is random by `seeds`."""

    @torch.no_grad()
    def sample(
        self, labels: Tensor, seeds: Tensor, *, callback: Callable[..., None] | None = None, **options: Any
    ) -> Tensor:
        def drawn(told: Tensor | None, truncation: float) -> Tensor:
            return self.points(told, seeds, truncation)

        return self._render(labels, seeds, callback, drawn, options)

    @torch.no_grad()
    def interpolate(self, labels: Tensor, first: Tensor, second: Tensor, shares: Tensor, **options: Any) -> Tensor:
        """Images [B, C, H, W] on the way from those of the seeds `first` [B] to those of `second`.

        shares: float [B], how much of the way is behind them; 0 is the first image. All else that is random is the
        first one's. ValueError as of `sample`.
        """

        def way(told: Tensor | None, truncation: float) -> Tensor:
            return self.between(self.points(told, first, truncation), self.points(told, second, truncation), shares)

        return self._render(labels, first, None, way, options)

    def _render(
        self,
        labels: Tensor,
        seeds: Tensor,
        callback: Callable[..., None] | None,
        points: Callable[[Tensor | None, float], Tensor],
        options: dict[str, Any],
    ) -> Tensor:
        truncation = self.options(**options).get("truncation", 1.0)
        told = self._told(labels)
        images = self.render(points(told, truncation), told, seeds)
        if callback is not None:
            callback(0, 0.0, images, images)
        return images

    def _told(self, labels: Tensor) -> Tensor | None:
        """What the networks are told of labels; ValueError for labels that are no classes."""
        if not self.conditional:
            return None
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(f"labels must lie in [0, {self.classes}), got {int(labels.min())} to {int(labels.max())}")
        return labels

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many classes there are, 0 for none."""

    @property
    def conditional(self) -> bool:
        return self.classes > 0

    def options(self, **asked: Any) -> dict[str, Any]:
        asked = {name: value for name, value in asked.items() if value is not None}
        if asked.pop("steps", 1) != 1:
            raise ValueError("steps must be 1: an image is made of its latent vector in one call")
        truncation = asked.pop("truncation", None)
        for name in asked:
            raise ValueError(f"{name} is no option of this system, which has truncation")
        if truncation is not None and not self.has_styles:
            raise ValueError("truncation moves styles towards their mean, and this model has no mapping network")
        if truncation is not None and not 0 <= truncation <= 1:
            raise ValueError(f"truncation must lie in [0, 1], got {truncation}")
        return {"steps": 1, **({} if truncation is None else {"truncation": truncation})}


def draw_interpolations(
    system: VectorSystem,
    labels: Sequence[int],
    count: int,
    seeds: Sequence[int],
    *,
    device: torch.device | str,
    **options: Any,
) -> Tensor:
    """`count` images of each class in `labels`, from one to another: [len(labels), count, C, H, W] in [−1, 1].

    The ends are the class's first images by the two `seeds`, or its first and second by the one.
    """
    pairs = torch.stack([torch.cat([seeds_of(seed, label, 3 - len(seeds)) for seed in seeds]) for label in labels])
    first, second = (ends.repeat_interleave(count) for ends in pairs.unbind(1))
    classes = torch.tensor(labels).repeat_interleave(count)
    shares = torch.linspace(0, 1, count, dtype=torch.float64).repeat(len(labels))
    chunks = [
        system.interpolate(*(part.to(device) for part in parts), **options)
        for parts in zip(*(whole.split(AT_A_TIME) for whole in (classes, first, second, shares)), strict=True)
    ]
    return torch.cat(chunks).unflatten(0, (len(labels), -1))

"""Pixels as continuous values, and how many bits they cost under a density of these."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops

# Shares of the interval are moved off the ends of (0, 1), of which the logit is taken.
_MARGIN = 0.05


@dataclass(frozen=True)
class Dequantization:
    """Pixels with noise added, so that they have a density.

    levels: how many values a pixel keeps, evenly spaced in [−1, 1], at most 256; digits have 17. width: standard
    deviation of normal noise; 0 is uniform noise, as wide as a level, which fills an interval: its logit is taken, for
    a density of all numbers (Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017, section 4.1).

    ValueError for levels outside [2, 256] or a width below 0.
    """

    levels: int = 256
    width: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must lie in [2, 256], got {self.levels}")
        if not 0 <= self.width < math.inf:
            raise ValueError(f"width must be at least 0 and finite, got {self.width}")

    def noised(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Images [B, …] in [−1, 1] as values with noise of the seeds, int64 [B]: float32."""
        level = self._level(images)
        if self.width == 0:
            uniform = ops.uniform(seeds, images.shape[1:], stream=ops.Purpose.NOISE.stream())
            return (_MARGIN + (1 - 2 * _MARGIN) * (level + uniform) / self.levels).logit()
        normal = ops.gaussian(seeds, images.shape[1:], stream=ops.Purpose.NOISE.stream())
        return self._value(level) + self.width * normal

    def bits(self, noised: Tensor, images: Tensor, log_density: Tensor) -> Tensor:
        """An upper bound, in the mean over the noise, of −log₂ P(levels of an image): [B], bits of a whole image.

        noised: as `noised` made them of images [B, …]. log_density: ln p(noised), [B], nats.

        It is −ln p(x) + ln q(x | level), and with normal noise, of which no x says for certain which level it came
        from, also −ln P(level | x), P being Bayes' of all levels alike.
        """
        dimensions = images[0].numel()
        if self.width == 0:
            # q is uniform in the share of the interval, whose logit was taken.
            slope = F.logsigmoid(noised) + F.logsigmoid(-noised) - math.log(1 - 2 * _MARGIN)
            bits = dimensions * math.log(self.levels) + slope.flatten(1).sum(1)
            return (bits - log_density) / math.log(2)
        values = torch.linspace(-1, 1, self.levels, device=noised.device)
        every = -0.5 * ((noised[..., None] - values) / self.width).square()
        # What is the own level's stands in ln q and in ln P, and cancels.
        rest = torch.logsumexp(every, -1) - math.log(self.width * math.sqrt(2 * math.pi))
        return (rest.flatten(1).sum(1) - log_density) / math.log(2)

    def images(self, x: Tensor) -> Tensor:
        """Values [B, …] as images in [−1, 1]: of each the level that it belongs to, as `noised` adds noise to it."""
        if self.width == 0:
            level = ((x.sigmoid() - _MARGIN) / (1 - 2 * _MARGIN) * self.levels).floor()
        else:
            level = ((x + 1) / 2 * (self.levels - 1)).round()
        return self._pixel(level.clamp(0, self.levels - 1))

    def loses_nothing(self, images: Tensor) -> bool:
        """Whether every pixel of images in [−1, 1] has the value of its level."""
        return torch.equal(self._pixel(self._level(images)), images)

    def _level(self, images: Tensor) -> Tensor:
        return ((images.float() + 1) * 127.5).round().clamp(0, 255).mul(self.levels / 256).floor()

    def _value(self, level: Tensor) -> Tensor:
        return level * (2 / (self.levels - 1)) - 1

    def _pixel(self, level: Tensor) -> Tensor:
        """The level as the nearest of 256 values."""
        return (level * 255 / (self.levels - 1)).round() / 127.5 - 1
